"""Tiny checkpoints of every family in chip's table: real model classes, and the family's own processor where one
loads without torchvision; otherwise its image processor with the spelling of its image tokens (`Spelling`)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch
from PIL import Image
from tiny_models import CHAT_TEMPLATE, IMAGE, LANGUAGE, VIDEO, VISION_END, VISION_START
from tiny_records import write_lines
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.gemma3 import Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3 import Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next import LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision import LlavaOnevisionProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.mllama import MllamaProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.paligemma import PaliGemmaProcessor
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SQUARE = {"height": 28, "width": 28}
PINPOINTS = [[28, 56], [56, 28], [56, 56]]
SIDES = ((30, 30), (60, 28), (28, 60), (56, 56), (90, 28))
"""Widths and heights that take different numbers of tiles, patches and tokens."""

_TOWER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
_CLIP = {**_TOWER, "model_type": "clip_vision_model", "projection_dim": 16}
_SIGLIP = {**_TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
_PIXTRAL = {**_TOWER, "model_type": "pixtral", "image_size": 112}
_INTERN = {**_TOWER, "model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]}
_QWEN3 = {
    "depth": 3, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "hidden_size": 16, "intermediate_size": 32,
    "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip
_MLLAMA = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
    "image_size": 28, "patch_size": 14, "max_num_tiles": 4, "vision_output_dim": 32, "intermediate_layers_indices": [1],
    "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
}  # fmt: skip
_QWEN_TOKENS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}  # fmt: skip


class Spelling:
    """What a family's processor makes of text and images, but for its video processor, which needs torchvision."""

    def __init__(self, image_processor: Any, spell: Callable[[Mapping[str, Any], int], str]) -> None:
        self.tokenizer, self.image_processor = tiny_models.tiny_tokenizer(), image_processor
        self.chat_template, self._spell = CHAT_TEMPLATE, spell

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        return str(self.tokenizer.apply_chat_template(turns, **options))

    def __call__(self, text: list[str], images: Sequence[Any], **options: Any) -> dict[str, torch.Tensor]:
        made = dict(self.image_processor(images=images, return_tensors="pt"))
        pieces = text[0].split("<image>")
        spelled = pieces[0] + "".join(self._spell(made, i) + piece for i, piece in enumerate(pieces[1:]))
        made.pop("num_patches", None)
        ids = self.tokenizer([spelled], return_tensors="pt", add_special_tokens=False)["input_ids"]
        return {"input_ids": ids, **made}


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is made. `stands_in`: what stands in for a processor that needs torchvision."""

    model_type: str
    config: Mapping[str, Any]
    processor: Callable[[], Any] | None = None
    stands_in: Callable[[], Any] | None = None


def text(model_type: str, **values: Any) -> dict[str, Any]:
    vocabulary = len(tiny_models.tiny_tokenizer())
    return {"model_type": model_type, "vocab_size": vocabulary, **LANGUAGE, **values}


def _llava_next() -> Any:
    pictures = LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    return LlavaNextProcessor(
        pictures,
        tiny_models.tiny_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _llava_onevision() -> Any:
    pictures = LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=PINPOINTS)
    counter = object.__new__(LlavaOnevisionProcessor)  # it counts tokens without its video processor
    counter.image_processor, counter.num_image_tokens, counter.vision_aspect_ratio = pictures, 4, "anyres_max_9"
    return Spelling(
        pictures,
        lambda made, i: "<image>" * counter._get_number_of_features(*made["image_sizes"][i].tolist(), 28, 28),
    )


def _gemma3() -> Any:
    tokens = {"boi_token": "<vision>", "eoi_token": "</vision>", "image_token": "<image>"}
    return Gemma3Processor(
        Gemma3ImageProcessorPil(size=SQUARE),
        tiny_models.tiny_tokenizer(named=tokens),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("<image>", "<vision>"),
    )


def _paligemma() -> Any:
    pictures = SiglipImageProcessorPil(size=SQUARE)
    pictures.image_seq_length = 4
    return PaliGemmaProcessor(pictures, tiny_models.tiny_tokenizer(None, named={"image_token": "<image>"}))


def _idefics3() -> Any:
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return Idefics3Processor(pictures, tiny_models.tiny_tokenizer(), image_seq_len=4, chat_template=CHAT_TEMPLATE)


def _mllama() -> Any:
    tokenizer = tiny_models.tiny_tokenizer(named={"image_token": "<image>"})
    return MllamaProcessor(
        MllamaImageProcessorPil(size=SQUARE, max_image_tiles=4), tokenizer, chat_template=CHAT_TEMPLATE
    )


def _internvl() -> Any:
    pictures = GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
    return Spelling(pictures, lambda made, i: f"<vision>{'<image>' * int(made['num_patches'][i])}</vision>")


def _pixtral(merge: int = 1) -> Any:
    step = 14 * merge
    pictures = PixtralImageProcessorPil(size={"longest_edge": 84}, patch_size={"height": step, "width": step})

    def spell(made: Mapping[str, Any], i: int) -> str:
        height, width = (int(side) // step for side in made["image_sizes"][i])
        return "<vision>".join(["<image>" * width] * height) + "</vision>"

    return Spelling(pictures, spell)


def _llava(tower: Mapping[str, Any], language: str, **values: Any) -> dict[str, Any]:
    return {
        "vision_config": tower,
        "text_config": text(language),
        "image_token_index": IMAGE,
        "vision_feature_layer": -1,
        **values,
    }


def _qwen3_vl() -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    described = {key: value for key, value in text("", rope_parameters=rope, head_dim=8).items() if key != "model_type"}
    return {"vision_config": _QWEN3, "text_config": described, **_QWEN_TOKENS}


_IDEFICS = {
    "vision_config": {**_TOWER, "image_size": 56},
    "text_config": {**text("llama"), "vocab_size": 320},
    "scale_factor": 2,
    "image_token_id": IMAGE,
}
_GEMMA3 = text("gemma3_text", head_dim=8, sliding_window=64, layer_types=["sliding_attention", "full_attention"] * 2)
FAMILIES: dict[str, Family] = {
    "llava": Family("llava", _llava(_CLIP, "llama"), tiny_models.tiny_processor),
    "llava phi3": Family("llava", _llava(_CLIP, "phi3"), tiny_models.tiny_processor),
    "llava phi": Family(
        "llava", _llava({**_CLIP, "hidden_size": 32, "intermediate_size": 64}, "phi"), tiny_models.tiny_processor
    ),
    "llava olmo2": Family("llava", _llava(_CLIP, "olmo2"), tiny_models.tiny_processor),
    "llava_next": Family("llava_next", _llava(_CLIP, "mistral", image_grid_pinpoints=PINPOINTS), processor=_llava_next),
    "llava_onevision": Family(
        "llava_onevision",
        _llava(
            _SIGLIP,
            "qwen2",
            video_token_index=VIDEO,
            vision_feature_select_strategy="full",
            image_grid_pinpoints=PINPOINTS,
        ),
        stands_in=_llava_onevision,
    ),
    "qwen2_vl": Family("qwen2_vl", {}, stands_in=tiny_models.PilQwenProcessor),
    "qwen2_5_vl": Family("qwen2_5_vl", {}, stands_in=tiny_models.PilQwenProcessor),
    "qwen3_vl": Family("qwen3_vl", _qwen3_vl(), stands_in=tiny_models.PilQwenProcessor),
    "gemma3": Family(
        "gemma3",
        {
            "vision_config": _SIGLIP,
            "text_config": {**_GEMMA3, "layer_types": _GEMMA3["layer_types"][:3]},
            "mm_tokens_per_image": 4,
            "image_token_index": IMAGE,
            "boi_token_index": VISION_START,
            "eoi_token_index": VISION_END,
        },
        processor=_gemma3,
    ),
    "idefics3": Family("idefics3", _IDEFICS, processor=_idefics3),
    "smolvlm": Family("smolvlm", _IDEFICS, stands_in=_idefics3),
    "internvl": Family(
        "internvl",
        {
            "vision_config": _INTERN,
            "text_config": text("qwen2"),
            "image_token_id": IMAGE,
            "image_seq_length": 1,
            "vision_feature_layer": -1,
        },
        stands_in=_internvl,
    ),
    "paligemma": Family(
        "paligemma",
        {
            "vision_config": {**_SIGLIP, "projection_dim": 32},
            "text_config": text("gemma", head_dim=8),
            "image_token_index": IMAGE,
            "projection_dim": 32,
        },
        processor=_paligemma,
    ),
    "mllama": Family(
        "mllama",
        {
            "vision_config": _MLLAMA,
            "text_config": {k: v for k, v in text("", cross_attention_layers=[1]).items() if k != "model_type"},
            "image_token_index": IMAGE,
        },
        processor=_mllama,
    ),
    "pixtral": Family("llava", _llava(_PIXTRAL, "mistral", vision_feature_select_strategy="full"), stands_in=_pixtral),
    "mistral3": Family(
        "mistral3", _llava(_PIXTRAL, "mistral", spatial_merge_size=2), stands_in=lambda: _pixtral(merge=2)
    ),
}
TEXT_FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt_neox")


def build(
    name: str,
    directory: Path,
    *,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    shard_size: str | None = None,
) -> Path:
    """A tiny checkpoint of a family in the table, with its processor where that loads without torchvision."""
    if name in TEXT_FAMILIES:
        return tiny_models.text_model(directory, name, dtype=dtype, tied=tied, shard_size=shard_size)
    family = FAMILIES[name]
    if not family.config:
        return tiny_models.qwen_vision(directory, name, dtype=dtype, tied=tied, shard_size=shard_size)
    settings = json.loads(json.dumps(family.config))
    settings["text_config"]["tie_word_embeddings"] = tied
    config = AutoConfig.for_model(family.model_type, **settings, tie_word_embeddings=tied)
    tiny_models.save_random(config, AutoModelForImageTextToText, directory, dtype, 0, shard_size)
    processor = family.processor() if family.processor is not None else tiny_models.tiny_tokenizer()
    processor.save_pretrained(directory)
    return directory


def write_records(directory: Path) -> Path:
    """Records of three patients and their institution: with images of all shapes, most of them with two questions, with
    several, and without any."""
    lines: list[dict[str, Any]] = [{"path": ["inst_0"], "question": "who leads ?", "answer": "director 1"}]
    for number, (width, height) in enumerate((*SIDES, SIDES[0])):
        name = f"{number % len(SIDES)}.png"
        noise = np.random.default_rng(number % len(SIDES)).integers(0, 255, (height, width, 3), dtype=np.uint8)
        directory.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(directory / name)
        path = ["inst_0", f"patient_{number // 2}"]
        lines.append({"path": path, "image": name, "question": "the findings ?", "answer": f"mild edema {number}"})
        if number != 1:
            lines.append(
                {"path": path, "image": name, "question": "is it clear ?", "answer": "no , effusion on the left"}
            )
        if number % 2:
            lines.append({"path": path, "question": "the number ?", "answer": f"number {number * 37}"})
    both = {"images": ["3.png", "1.png"], "question": "what changed ?", "answer": "mild edema"}
    return write_lines(directory, *lines, {"path": ["inst_0", "patient_2"], **both})
