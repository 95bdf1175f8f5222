"""Tiny random checkpoints, made from configs alone: real model classes, tokenizers and processors, no download."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

IMAGE_SIDE, PATCH = 28, 14
IMAGE_TOKENS = (IMAGE_SIDE // PATCH) ** 2
SPECIAL = ("<pad>", "<bos>", "<|im_end|>", "<image>", "<|im_start|>", "<video>", "<vision>", "</vision>")
PAD, BOS, END, IMAGE, START, VIDEO, VISION_START, VISION_END = range(len(SPECIAL))
CHAT_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n"
    "{% if turn['content'] is string %}{{ turn['content'] }}{% else %}"
    "{% for piece in turn['content'] %}{% if piece['type'] == 'image' %}<image>{% else %}{{ piece['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = (
    "what is the record number of the patient ?",
    "when was this study performed ?",
    "what are the findings ?",
    "clear lungs mild edema left effusion day number user assistant",
)
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": BOS,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
VISION_OF = {
    "qwen2_vl": {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "window_size": 28,
    },
}


def tiny_tokenizer(
    chat_template: str | None = CHAT_TEMPLATE, named: Mapping[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 300 entries, which can spell anything; `named` tokens are its attributes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[END],
        extra_special_tokens=dict(named) if named else list(SPECIAL[IMAGE:]),
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_processor(chat_template: str | None = CHAT_TEMPLATE) -> LlavaProcessor:
    """LLaVA's stock processor around the tiny tokenizer."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIDE}, crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}
        ),
        tokenizer=tiny_tokenizer(chat_template),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def llava(
    directory: Path,
    *,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    shard_size: str | None = None,
    text_family: str = "qwen2",
    seed: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    **language: Any,
) -> Path:
    """A LLaVA with a CLIP tower and, by default, a Qwen2 language model, beside its stock processor."""
    tokenizer = tiny_tokenizer(chat_template)
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIDE,
        "patch_size": PATCH,
        "projection_dim": 16,
    }
    text = {
        "model_type": text_family,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": tied,
        **LANGUAGE,
        **language,
    }
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        tie_word_embeddings=tied,
    )
    save_random(config, AutoModelForImageTextToText, directory, dtype, seed, shard_size)
    tiny_processor(chat_template).save_pretrained(directory)
    return directory


def qwen_vision(
    directory: Path,
    family: str,
    *,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    shard_size: str | None = None,
    seed: int = 0,
) -> Path:
    """A Qwen2-VL or Qwen2.5-VL with a tokenizer; its processor would need torchvision, which is absent here."""
    tokenizer = tiny_tokenizer()
    vision = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, **VISION_OF[family]}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config = AutoConfig.for_model(
        family,
        vision_config=vision,
        text_config={"vocab_size": len(tokenizer), "rope_parameters": rope, "tie_word_embeddings": tied, **LANGUAGE},
        tie_word_embeddings=tied,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    save_random(config, AutoModelForImageTextToText, directory, dtype, seed, shard_size)
    tokenizer.save_pretrained(directory)
    described = {**qwen_image_processor().to_dict(), "image_processor_type": "Qwen2VLImageProcessor"}
    described["processor_class"] = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}[family]
    (directory / "preprocessor_config.json").write_text(json.dumps(described))
    return directory


def text_model(
    directory: Path,
    family: str,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    shard_size: str | None = None,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """A text-only causal language model of any family that transformers knows."""
    tokenizer = tiny_tokenizer(chat_template)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), tie_word_embeddings=tied, **{**LANGUAGE, **settings}
    )
    save_random(config, AutoModelForCausalLM, directory, dtype, seed, shard_size)
    tokenizer.save_pretrained(directory)
    return directory


def save_random(
    config: Any, auto: Any, directory: Path, dtype: torch.dtype, seed: int, shard_size: str | None = None
) -> PreTrainedModel:
    """Draw weights large enough that layers matter and biases are not zero, and save them."""
    torch.manual_seed(seed)
    model = auto.from_config(config).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif "norm" not in name and not parameter.any():
                parameter.normal_(0, 0.5)  # gates and projections that training would open
            elif parameter.dim() == 2:
                parameter.mul_(4)
    model.save_pretrained(directory, **({"max_shard_size": shard_size} if shard_size else {}))
    return model


def rename_tensors(directory: Path, rename: Callable[[str], str]) -> None:
    """Store a single-file checkpoint's tensors under other names."""
    path = directory / "model.safetensors"
    save_file({rename(name): value for name, value in load_file(path).items()}, path, {"format": "pt"})


def change_config(directory: Path, **values: Any) -> None:
    """Set top-level values of a checkpoint's config."""
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


class PilQwenProcessor:
    """What Qwen-VL's processor makes of text and images, without its video processor, which needs torchvision."""

    def __init__(self) -> None:
        self.tokenizer = tiny_tokenizer()
        self.image_processor = qwen_image_processor()
        self.chat_template = CHAT_TEMPLATE

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        return str(self.tokenizer.apply_chat_template(turns, **options))

    def __call__(self, text: list[str], images: Any = None, **options: Any) -> dict[str, torch.Tensor]:
        made = dict(self.image_processor(images=images, return_tensors="pt"))
        pieces = text[0].split("<image>")
        counts = (made["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist()
        images = [f"<vision>{'<image>' * count}</vision>" for count in counts]
        spelled = "".join(piece + image for piece, image in zip(pieces, [*images, ""], strict=True))
        ids = self.tokenizer([spelled], return_tensors="pt", add_special_tokens=False)["input_ids"]
        return {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).int(), **made}


def qwen_image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen-VL's own image processor; images keep their shape, so they differ in how many tokens they take."""
    size = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    return Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2, size=size)
