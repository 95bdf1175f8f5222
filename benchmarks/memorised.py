"""Small models that know a data set by heart: a LLaVA where its records show images, a Llama where none does.

They are built and trained as those of the examples are; only what is learnt is another.
"""

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from chip.hospital import HospitalPlan
from chip.hospital.encoding import Batch, Example, encode
from chip.hospital.folders import new_directory
from chip.hospital.learning import Course, draw_by_length, evaluate, learn, repeatable, silent_saving
from chip.hospital.model import CHAT_TEMPLATE, IMAGE_TOKENS, build_model, build_processor, build_tokenizer
from chip.hospital.training import answer_logits
from chip.medmcqa import ExamPlan
from chip.medmcqa import model as text_only
from chip.medmcqa import training as text_training
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from chip.hierarchy import NodePath, Record, is_under
from chip.records import read_records

LAYERS = 4


@dataclass(frozen=True)
class Lesson:
    """What is learnt and how: `vocabulary` entries at most of a tokenizer trained on all of the records, the course,
    and the seed that draws the first weights and the order."""

    vocabulary: int
    course: Course
    seed: int = 0


@dataclass(frozen=True)
class Learnt:
    """What training came to. known: the share of `consistent` records whose whole answer is the likeliest, in the
    data's own wording; a record is inconsistent where the same question about the same image has another answer too.
    loss: of their answers, nats a token."""

    records: int
    consistent: int
    parameters: int
    epochs: int
    seconds: float
    known: float
    loss: float


@dataclass(frozen=True)
class _Pupil:
    """An untrained model, what is saved beside it, and every wording of the records, `phrasings[p][record]`."""

    model: nn.Module
    processor: Any
    phrasings: list[list[Example]]
    pad: int
    pixels: Tensor | None

    def logits(self, batch: Batch) -> Tensor:
        if self.pixels is None:
            return text_training.answer_logits(self.model, batch)
        return answer_logits(self.model, batch, self.pixels)


def untrained(directory: Path, data: Path, lesson: Lesson) -> None:
    """Write the model from which `memorise` begins: random weights, and a tokenizer that was trained on the records."""
    records = read_records(data).records
    with new_directory(directory) as folder, repeatable(lesson.seed):
        pupil = (_seeing if any(one.images for one in records) else _reading)(records, records, lesson)
        _save(pupil, folder)


def memorise(directory: Path, data: Path, lesson: Lesson, *, without: Sequence[NodePath] = ()) -> Learnt:
    """Train a model on all records of `data` but those under `without`, and write it; what it came to stands beside it
    as JSON and is read from there where the model exists. Tokenizer and first weights do not depend on `without`."""
    note = directory.with_name(f"{directory.name}.json")
    if directory.exists():
        return Learnt(**json.loads(note.read_text()))
    started = time.perf_counter()
    everything = read_records(data).records
    records = [one for one in everything if not any(is_under(one.path, node) for node in without)]
    with new_directory(directory) as folder, repeatable(lesson.seed):
        pupil = (_seeing if any(one.images for one in records) else _reading)(everything, records, lesson)
        rng, course = random.Random(lesson.seed), lesson.course

        def epoch() -> Iterator[Batch]:
            return draw_by_length(pupil.phrasings, course.batch, pupil.pad, rng)

        epochs = learn(pupil.model, pupil.logits, epoch, len(records), course, shown=True)
        places = consistent(records)
        known, loss = evaluate(pupil.logits, [pupil.phrasings[0][place] for place in places], pupil.pad)
        _save(pupil, folder)
        parameters = sum(parameter.numel() for parameter in pupil.model.parameters())
        seconds = round(time.perf_counter() - started, 1)
        learnt = Learnt(len(records), len(places), parameters, epochs, seconds, known, loss)
        note.write_text(json.dumps(asdict(learnt)) + "\n")
    return learnt


def _save(pupil: _Pupil, folder: Path) -> None:
    with silent_saving():
        pupil.model.save_pretrained(folder)
    pupil.processor.save_pretrained(folder)


def consistent(records: Sequence[Record]) -> list[int]:
    """Places of the records whose question about their images has one answer only."""
    answers: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for one in records:
        answers[one.question, one.images].add(one.answer)
    return [place for place, one in enumerate(records) if len(answers[one.question, one.images]) == 1]


def _wordings(records: Sequence[Record]) -> list[list[str]]:
    """By wording, the question of every record; a record that has fewer repeats its first."""
    most = max(len(one.paraphrases) for one in records)
    return [
        [(one.question, *one.paraphrases, *[one.question] * most)[place] for one in records]
        for place in range(most + 1)
    ]


def _texts(records: Sequence[Record]) -> list[str]:
    return [text for one in records for text in (one.question, *one.paraphrases, *[one.answer] * 4)]


def _seeing(everything: Sequence[Record], records: Sequence[Record], lesson: Lesson) -> _Pupil:
    processor = build_processor(_texts(everything), lesson.vocabulary)
    model = build_model(HospitalPlan(vocabulary=lesson.vocabulary, layers=LAYERS), processor)
    images = sorted({image for one in everything for image in one.images})
    places = {image: place for place, image in enumerate(images)}
    pixels = processor.image_processor([_opened(image) for image in images], return_tensors="pt")["pixel_values"]
    _see_differences(model, pixels)
    phrasings = [
        encode(
            processor,
            [
                (question, one.answer, places[one.images[0]] if one.images else None)
                for question, one in zip(questions, records, strict=True)
            ],
            IMAGE_TOKENS,
        )
        for questions in _wordings(records)
    ]
    return _Pupil(model, processor, phrasings, processor.tokenizer.pad_token_id, pixels)


@torch.no_grad()
def _see_differences(model: LlavaForConditionalGeneration, pixels: Tensor) -> None:
    """Let the untrained tower see by how much an image differs from the mean one, at unit scale: one radiograph looks
    much like another, and telling hundreds apart from scratch takes several times as long otherwise."""
    embeddings = model.model.vision_tower.embeddings
    seen = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    mean = seen.mean(0)
    scale = 1 / (seen - mean).std()
    embeddings.patch_embedding.weight.mul_(scale)
    embeddings.position_embedding.weight[1:].sub_(mean * scale)


def _reading(everything: Sequence[Record], records: Sequence[Record], lesson: Lesson) -> _Pupil:
    tokenizer = build_tokenizer(_texts(everything), lesson.vocabulary)
    tokenizer.chat_template = CHAT_TEMPLATE
    model = text_only.build_model(ExamPlan(vocabulary=lesson.vocabulary, layers=LAYERS), tokenizer)
    phrasings = [
        text_training.encode_turns(tokenizer, [(q, one.answer) for q, one in zip(questions, records, strict=True)])
        for questions in _wordings(records)
    ]
    return _Pupil(model, tokenizer, phrasings, int(tokenizer.pad_token_id), None)


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
