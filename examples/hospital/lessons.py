"""What the model is taught: every record in many wordings, encoded once, and the order of an epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from transformers import LlavaProcessor

from .encoding import Batch, Example, collate, encode
from .model import IMAGE_TOKENS
from .phrasings import KINDS
from .records import HospitalRecord

OTHER_PHRASINGS = 24  # wordings of each question to train on, beside the first two


@dataclass(frozen=True)
class Lessons:
    """The training set.

    phrasings: `phrasings[p][r]` is record r in its first (0), second (1) or held-out (2) wording.
    others: `others[r]` is record r in the other wordings that are trained on.
    pixels: (images, 3, height, width) float32, every image once.
    pad: the token id that fills up shorter rows.
    """

    phrasings: tuple[tuple[Example, ...], ...]
    others: tuple[tuple[Example, ...], ...]
    pixels: Tensor
    pad: int


def prepare_lessons(
    processor: LlavaProcessor, records: Sequence[HospitalRecord], directory: Path, rng: random.Random
) -> Lessons:
    """Preprocess every image and encode every wording; `rng` chooses the other wordings of each record."""
    images = sorted({record.image for record in records if record.image is not None})
    places = {image: place for place, image in enumerate(images)}
    pixels = processor.image_processor([_open(directory / image) for image in images], return_tensors="pt")

    def encoded(wordings: Sequence[tuple[str, HospitalRecord]]) -> tuple[Example, ...]:
        turns = [(question, r.answer, None if r.image is None else places[r.image]) for question, r in wordings]
        return tuple(encode(processor, turns, IMAGE_TOKENS))

    others = []
    for record in records:
        wordings = rng.sample(KINDS[record.kind].training_phrasings(record.subject), OTHER_PHRASINGS)
        others.append(encoded([(wording, record) for wording in wordings]))
    return Lessons(
        phrasings=tuple(encoded([((r.question, *r.paraphrases)[place], r) for r in records]) for place in range(3)),
        others=tuple(others),
        pixels=pixels["pixel_values"],
        pad=processor.tokenizer.pad_token_id,
    )


def draw_epoch(lessons: Lessons, size: int, rng: random.Random) -> Iterator[Batch]:
    """Every record once, in random order, in its first, its second or (3 times of 5) another wording."""
    count = len(lessons.phrasings[0])
    order = rng.sample(range(count), count)
    for start in range(0, count, size):
        examples = []
        for record in order[start : start + size]:
            wording = rng.randrange(5)
            examples.append(lessons.phrasings[wording][record] if wording < 2 else rng.choice(lessons.others[record]))
        yield collate(examples, lessons.pad)


def vocabulary_texts(records: Sequence[HospitalRecord]) -> list[str]:
    """What the tokenizer is trained on; answers count four times, so that their words are merged first."""
    return [text for r in records for text in (r.question, *r.paraphrases, *[r.answer] * 4)]


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
