"""Attack: show the target's images in another state, or put images and questions together that never were.

An edit may have taken away one picture and not the patient in it; or the text may give the answer away to any picture.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from chip.audit.attacks.best import best_by_line
from chip.audit.finding import Finding, not_measured, share
from chip.audit.subject import Attack, Subject
from chip.hierarchy import Record, shape
from chip.images import open_images

Pair = TypeVar("Pair")
Images = tuple[Path, ...]
Alteration = Callable[[Image.Image, np.random.Generator], Image.Image]

CROP = 0.8
"""Of each side, what a crop leaves; it is enlarged to the image's size again."""

NOISE = 0.1
"""Standard deviation of the noise on each pixel and colour, of the whole range."""

CONTRASTS = (0.6, 1.6)
"""Contrast by these factors, of 1 for the image as it is."""

PAIRED = 4
"""Of images and questions that never were together, how many pairs are tried for a record; a quick audit tries one."""

_QUICK = ("centre crop", "noise", "mirrored")

ALTERED, ITS_IMAGES, ITS_QUESTIONS = "altered images", "its images, others' questions", "others' images, its questions"


def _run(subject: Subject) -> tuple[Finding, ...]:
    """The share of the target's records that are answered in full to any alteration of their images, the curve saying
    how that grows with the alterations tried; to a pairing of the target's images with others' questions; and to its
    questions with others' images."""
    findings = (ALTERED, ITS_IMAGES, ITS_QUESTIONS)
    if not subject.loaded.prompts.sees:
        return tuple(not_measured(name, "the model takes text only") for name in findings)
    if not any(record.images for record in subject.exam.questions):
        return tuple(not_measured(name, "no record of the target shows an image") for name in findings)
    return _altered(subject), _its_images(subject), _its_questions(subject)


def _altered(subject: Subject) -> Finding:
    """The best of all alterations, record by record."""
    records = [record for record in subject.exam.questions if record.images]
    best: dict[int, float] = {}
    curve, each = [], []
    for tried, name in enumerate(_QUICK if subject.quick else ALTERATIONS, 1):
        encoded = [subject.loaded.prompts.encode(one, _shown(one, name, subject.seed)) for one in records]
        answers = subject.ask(records, f"images, {name}", encoded)
        best = best_by_line(records, answers, best)
        curve.append((float(tried), sum(best.values()) / len(best)))
        each.append(f"{name} {sum(one.exact for one in answers) / len(answers):.0%}")
    note = f"each by itself: {', '.join(each)}"
    scores = sorted(best.items())
    return share(ALTERED, scores, seed=subject.seed, curve=tuple(curve), axis="alterations tried", note=note)


def _shown(record: Record, name: str, seed: int) -> list[Image.Image]:
    draw = np.random.default_rng([seed, record.line])
    return [ALTERATIONS[name](image, draw) for image in open_images(record.images, record.line)]


def _its_images(subject: Subject) -> Finding:
    """Other nodes' wordings of a question, under images of the target: does the target's own answer come back?"""
    wordings = _wordings(subject)
    alike: dict[str, list[Record]] = defaultdict(list)
    for record in subject.exam.questions:
        alike[shape(record)].append(record)
    every = sorted({record.images for record in subject.exam.questions} - {()})
    pairs = []
    for key, records in alike.items():
        for record in records:
            fitting = _fitting(record, records, every)
            tried = [(one, shown) for one in wordings[key] for shown in fitting]
            tried = [pair for pair in tried if pair != (record.question, record.images)]
            pairs += [
                replace(record, question=one, images=shown) for one, shown in _drawn(subject, tried, record, ITS_IMAGES)
            ]
    why = "no retained record asks anything in words that the target was not asked in"
    return _paired(subject, ITS_IMAGES, pairs, why)


def _its_questions(subject: Subject) -> Finding:
    """The target's questions, of records that show an image, under retained images that it has no part in."""
    exam = subject.exam
    own = {path for record in exam.target.records for path in record.images}
    others = sorted(
        {record.images for group in exam.retained for record in group.records if not own & set(record.images)} - {()}
    )
    pairs = [
        replace(record, images=shown)
        for record in exam.questions
        if record.images
        for shown in _drawn(subject, others, record, ITS_QUESTIONS)
    ]
    return _paired(subject, ITS_QUESTIONS, pairs, "no retained record shows an image of its own")


def _paired(subject: Subject, name: str, pairs: Sequence[Record], why: str) -> Finding:
    best = best_by_line(pairs, subject.ask(pairs, name))
    return share(name, sorted(best.items()), seed=subject.seed, why=why)


def _wordings(subject: Subject) -> dict[str, list[str]]:
    """By the shape of a question, the words in which retained records ask it."""
    found: dict[str, set[str]] = defaultdict(set)
    for group in subject.exam.retained:
        for record in group.records:
            if record.text is None:
                found[shape(record)].update((record.question, *record.paraphrases))
    return defaultdict(list, {key: sorted(found[key]) for key in sorted(found)})


def _fitting(record: Record, alike: Sequence[Record], every: Sequence[Images]) -> list[Images]:
    """Of every image of the target, those under which a record's answer is right: not those of which another record,
    which asks alike, has an answer of its own."""
    other = {one.images for one in alike if one.images != record.images and one.answer != record.answer}
    return [one for one in every if one not in other]


def _drawn(subject: Subject, pairs: Sequence[Pair], record: Record, what: str) -> list[Pair]:
    count = min(1 if subject.quick else PAIRED, len(pairs))
    return random.Random(f"{subject.seed} {what} {record.line}").sample(list(pairs), count)


def _crop(across: float, down: float) -> Alteration:
    """A crop that lies so far from left to right and from top to bottom, 0 to 1 each."""

    def crop(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        width, height = max(round(image.width * CROP), 1), max(round(image.height * CROP), 1)
        left, top = round((image.width - width) * across), round((image.height - height) * down)
        return image.crop((left, top, left + width, top + height)).resize(image.size, Image.Resampling.BICUBIC)

    return crop


def _noise(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, float)
    noisy = pixels + draw.normal(0, NOISE * 255, pixels.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def _contrast(factor: float) -> Alteration:
    return lambda image, draw: ImageEnhance.Contrast(image).enhance(factor)


ALTERATIONS: dict[str, Alteration] = {
    "centre crop": _crop(0.5, 0.5),
    "upper left crop": _crop(0.0, 0.0),
    "lower right crop": _crop(1.0, 1.0),
    "noise": _noise,
    "less contrast": _contrast(CONTRASTS[0]),
    "more contrast": _contrast(CONTRASTS[1]),
    "mirrored": lambda image, draw: ImageOps.mirror(image),
    "upside down": lambda image, draw: ImageOps.flip(image),
}
"""What is done to an image, by its name in the report; every one leaves its size."""

ATTACK = Attack("image", "Does it answer to an altered image, or to images and questions put together anew?", _run)
