"""What the benchmark of collecting runs on: models shaped like the real ones, and records like a clinician's questions.

Everything is random and drawn by seed: time and memory depend on shapes alone.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from chip.models.families import find_family
from chip.models.loading import LoadedModel
from chip.models.prompts import Prompts
from chip.models.sites import find_sites

SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for turn in messages %}<|{{ turn['role'] }}|>{% if turn['content'] is string %}{{ turn['content'] }}{% else %}"
    "{% for part in turn['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUESTIONS = (
    "is there evidence of a pleural effusion on the {side} side of the chest ?",
    "what is the most prominent finding in the {side} lung of this patient ?",
    "are the lungs clear and well expanded in this view ?",
    "which organ system is primarily shown in this radiograph ?",
    "is the cardiac silhouette enlarged compared with the previous study ?",
    "where is the tip of the central venous catheter in this image ?",
    "was this image taken in the posteroanterior or the anteroposterior projection ?",
    "what does the opacity in the {side} lower zone most likely represent ?",
)
ANSWERS = (
    "yes",
    "no",
    "the {side} lower lobe",
    "chest",
    "mild cardiomegaly without effusion",
    "a small {side} effusion",
)
LEVELS = ("institution", "patient", "study", "section")

# LLaVA-1.5-7B divided by eight in width and by four in depth: hidden 4096, MLP 11008, 32 layers, CLIP-L/14 at 336.
LANGUAGE = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "vocab_size": 4000,
}
QWEN_7B = (
    {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "vocab_size": 152064,
    },
    {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
)
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 96,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the questions and answers, in which common words are one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*QUESTIONS, *ANSWERS, "left right user assistant"] * 2, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=list(SPECIAL[3:]),
    )
    made.chat_template = TEMPLATE
    return made


def llava(directory: Path) -> Path:
    """A LLaVA of 336-pixel images, 576 tokens each, in float32."""
    words = tokenizer()
    config = LlavaConfig(
        vision_config=VISION,
        text_config={"model_type": "llama", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **LANGUAGE},
        image_token_index=SPECIAL.index("<image>"),
        vision_feature_layer=-2,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(directory)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(directory)
    return directory


def text_model(directory: Path) -> Path:
    """The same language model without eyes."""
    config = AutoConfig.for_model("llama", pad_token_id=0, bos_token_id=1, eos_token_id=2, **LANGUAGE)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


class QwenProcessor:
    """What Qwen-VL's processor makes of text and images, without its video processor, which needs torchvision."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()
        self.image_processor = Qwen2VLImageProcessorPil()
        self.chat_template = TEMPLATE

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        """The tokenizer's own."""
        return str(self.tokenizer.apply_chat_template(turns, **options))

    def __call__(self, text: list[str], images: Any = None, **_: Any) -> dict[str, torch.Tensor]:
        made = dict(self.image_processor(images=images, return_tensors="pt")) if images else {}
        counts = (made["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist() if made else []
        spelled, left = [], iter(counts)
        for one in text:
            first, *others = one.split("<image>")
            spelled.append(first + "".join("<image>" * next(left) + other for other in others))
        tokens = dict(self.tokenizer(spelled, return_tensors="pt", add_special_tokens=False, padding=True))
        types = (tokens["input_ids"] == SPECIAL.index("<image>")).int()
        return {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": types,
        } | made


def qwen(device: torch.device, dtype: torch.dtype, text: dict[str, int], vision: dict[str, int]) -> LoadedModel:
    """A random Qwen2.5-VL on a device, never stored; `QWEN_7B` are the sizes of the published 7B model."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [text["head_dim"] // 8 * n for n in (1, 1, 2)]}
    numbers = {name: SPECIAL.index(name) for name in SPECIAL}
    config = AutoConfig.for_model(
        "qwen2_5_vl",
        vision_config={"out_hidden_size": text["hidden_size"], **vision},
        text_config={**text, "rope_parameters": rope, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        image_token_id=numbers["<image>"],
        video_token_id=len(SPECIAL),
        vision_start_token_id=len(SPECIAL) + 1,
        vision_end_token_id=len(SPECIAL) + 2,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    family = find_family(model.config, [name for name, _ in model.named_modules()])
    prompts = Prompts(QwenProcessor(), numbers["<image>"], family.inputs)
    return LoadedModel(model, prompts, family, find_sites(model, family), device)


def records(
    directory: Path, images: int, questions: int, *, shown: bool = True, studies: int | None = None, seed: int = 0
) -> Path:
    """Records on four levels: two studies a patient, a picture a study, `questions` sections with one question each.

    With `studies`, the pictures are shared out among so many: the nodes stay as many while the records grow.
    Without `shown`, the same without pictures, and with a word of its own before each question, so that no two begin
    alike.
    """
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    (directory / "images").mkdir(parents=True)
    lines = []
    for study in range(images):
        name, node = f"images/{study}.png", study % (studies or images)
        if shown:
            Image.fromarray(noise.integers(0, 255, (384, 400, 3), dtype=np.uint8)).save(directory / name)
        for number in range(questions):
            side = draw.choice(("left", "right"))
            question = QUESTIONS[(study + number) % len(QUESTIONS)].format(side=side)
            alone = f"{draw.randrange(10**6):06} "
            line = {
                "path": [f"institution_{node % 2}", f"patient_{node // 2}", f"study_{node}", f"section_{number}"],
                "image": name if shown else None,
                "question": question if shown else alone + question,
                "answer": draw.choice(ANSWERS).format(side=side),
            }
            lines.append(json.dumps(line) + "\n")
    draw.shuffle(lines)
    (directory / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    (directory / "dataset.json").write_text(json.dumps({"levels": LEVELS}), encoding="utf-8")
    return directory
