"""Records in any number on models as small as can be: what load is measured with, so that what is done for each record,
node and request is seen, and not the model.

Everything is drawn by seed. The first records of a larger crowd are those of a smaller one.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from chip.records import write_records

A_NODE, SECTIONS, STUDIES, INSTITUTIONS = 10, 5, 2, 10
"""Records a section, sections a study, studies a patient; institutions, whatever the number of patients."""

A_PATIENT = A_NODE * SECTIONS * STUDIES
SIDE, PATCH = 28, 14
ASKED = ("dose", "date", "finding", "side", "size", "course", "cause", "number", "view", "advice")
WORDS = (
    "left", "right", "upper", "lower", "mild", "severe", "small", "large", "clear", "acute", "chronic", "stable", "new",
    "old", "edema", "effusion",
)  # fmt: skip
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 1000,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 16,
}


def write_crowd(directory: Path, records: int, *, images: bool, more: int = 0) -> Path:
    """Write so many records, and `more` of new patients, on a tenth as many sections; with `images` one a patient."""
    (directory / "images").mkdir(parents=True, exist_ok=True)
    patients = -(-(records + more) // A_PATIENT)
    for patient in range(patients if images else 0):
        noise = np.random.default_rng(patient).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(directory / _image(patient))
    lines = (line for patient in range(patients) for line in _of_patient(patient, images=images))
    write_records(directory, shapes.LEVELS, [line for line, _ in zip(lines, range(records + more), strict=False)])
    return directory


def _of_patient(patient: int, *, images: bool) -> Iterator[dict[str, Any]]:
    draw = random.Random(patient)
    for study in range(STUDIES):
        for section in range(SECTIONS):
            name = f"study_{patient}_{study}"
            path = [f"inst_{patient % INSTITUTIONS}", f"patient_{patient}", name, f"section_{section}"]
            for number in range(A_NODE):
                answer = f"{' '.join(draw.sample(WORDS, draw.randint(1, 3)))} {draw.randrange(1000)}"
                question = f"what is the {ASKED[number]} in section_{section} of {name} ?"
                image = _image(patient) if images else None
                yield {"path": path, "image": image, "question": question, "answer": answer}


def section(place: int) -> str:
    """The path of a section by its number; the first of ten patients come before their second, and all theirs before
    those of the next ten."""
    patient, (study, number) = place % 10 + 10 * (place // A_PATIENT), divmod(place // 10 % 10, SECTIONS)
    return f"inst_{patient % INSTITUTIONS}/patient_{patient}/study_{patient}_{study}/section_{number}"


def _image(patient: int) -> str:
    return f"images/{patient}.png"


def text_model(directory: Path) -> Path:
    """A Llama of 2 layers, 32 wide."""
    config = AutoConfig.for_model("llama", **LANGUAGE)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    shapes.tokenizer().save_pretrained(directory)
    return directory


def llava(directory: Path) -> Path:
    """The same language model with a tower of 2 layers, 16 wide, that makes 4 tokens of an image."""
    config = LlavaConfig(
        vision_config=VISION,
        text_config={"model_type": "llama", **LANGUAGE},
        image_token_index=shapes.SPECIAL.index("<image>"),
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(directory)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=shapes.tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=shapes.TEMPLATE,
    ).save_pretrained(directory)
    return directory
