"""Trains the small model on the hospital's records until it knows them by heart.

The learning rate holds until the epoch's answer loss is low, then falls to nothing over a fixed number of epochs, so
that larger hospitals and smaller vocabularies take the time they need. Everything is drawn from the plan's seed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration
from transformers.utils import logging

from chip.errors import ChipError

from .encoding import Batch, Example, collate
from .folders import new_directory
from .lessons import Lessons, draw_epoch, prepare_lessons, vocabulary_texts
from .model import build_model, build_processor
from .plan import HospitalPlan
from .progress import TrainingProgress
from .records import read_records

BATCH = 48
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 20
LEARNT = 1.5  # nats a whole answer costs, over an epoch, when the learning rate starts to fall
MOST_EPOCHS = 100
SETTLING_EPOCHS = 20
THREADS = 1  # two are little faster alone and far slower on a busy machine; the number also decides the last bits


@dataclass(frozen=True)
class TrainingSummary:
    """What training came to, measured with teacher forcing on the records trained on.

    exact_match: the share of records whose whole answer is right, on the first, second and held-out phrasing.
    answer_loss: mean cross-entropy per answer token in nats, on the first phrasing.
    """

    records: int
    parameters: int
    epochs: int
    seconds: float
    answer_loss: float
    exact_match: tuple[float, float, float]


def train_model(
    directory: str | Path,
    records_directory: str | Path,
    plan: HospitalPlan,
    *,
    without: Sequence[tuple[str, ...]] = (),
    progress: bool = True,
) -> TrainingSummary:
    """Train a model of the plan's size on the records and write it to `directory`, as a checkpoint with its processor.

    `without` holds paths: the records of those nodes and of everything under them are left out, which gives the model
    that an unlearned one is compared with. The tokenizer and the first weights stay the same. Raises ChipError where no
    record lies under one of them, or where `directory` already holds something.
    """
    started = time.perf_counter()
    everything = read_records(records_directory)
    for node in without:
        if all(record.path[: len(node)] != node for record in everything):
            raise ChipError(f"No record of {records_directory} lies under {'/'.join(node)}; nothing would be left out.")
    records = tuple(r for r in everything if all(r.path[: len(node)] != node for node in without))

    with new_directory(directory) as folder, _repeatable(plan.seed):
        processor = build_processor(vocabulary_texts(everything), plan.vocabulary)
        model = build_model(plan, processor)
        lessons = prepare_lessons(processor, records, Path(records_directory), random.Random(plan.seed))
        with TrainingProgress(progress, SETTLING_EPOCHS) as display:
            epochs = _learn(model, lessons, random.Random(plan.seed), display)
        scores = [evaluate(model, examples, lessons) for examples in lessons.phrasings]
        with _silent_saving():
            model.save_pretrained(folder)
        processor.save_pretrained(folder)

    return TrainingSummary(
        records=len(records),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=epochs,
        seconds=round(time.perf_counter() - started, 1),
        answer_loss=scores[0][1],
        exact_match=(scores[0][0], scores[1][0], scores[2][0]),
    )


def answer_logits(model: LlavaForConditionalGeneration, batch: Batch, pixels: Tensor) -> Tensor:
    """Logits at the answer positions only, (answer tokens, vocabulary); each image of the batch is seen once."""
    core = model.model
    embeddings = core.get_input_embeddings()(batch.tokens)
    if len(batch.images):
        seen, places = torch.unique(batch.images, return_inverse=True)
        features = torch.stack(list(core.get_image_features(pixel_values=pixels[seen], return_dict=True).pooler_output))
        at_image = (batch.tokens == model.config.image_token_index).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(at_image, features[places])
    hidden = core.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    logits: Tensor = model.lm_head(hidden[batch.answers])
    return logits


@torch.no_grad()
def evaluate(
    model: LlavaForConditionalGeneration, examples: Sequence[Example], lessons: Lessons
) -> tuple[float, float]:
    """Exact match and mean answer loss with teacher forcing; greedy generation is right exactly where this is."""
    right, loss, tokens = 0, 0.0, 0
    for start in range(0, len(examples), 2 * BATCH):
        batch = collate(examples[start : start + 2 * BATCH], lessons.pad)
        logits, targets = answer_logits(model, batch, lessons.pixels), batch.targets[batch.answers]
        correct = torch.ones_like(batch.answers)
        correct[batch.answers] = logits.argmax(-1) == targets
        right += int(correct.all(1).sum())
        loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
        tokens += len(targets)
    return right / len(examples), loss / tokens


def _learn(
    model: LlavaForConditionalGeneration, lessons: Lessons, rng: random.Random, display: TrainingProgress
) -> int:
    """Train in place; return the number of epochs."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True
    )
    answers = len(lessons.phrasings[0])
    steps_per_epoch = math.ceil(answers / BATCH)
    step, epoch, settled_at = 0, 0, MOST_EPOCHS
    model.train()
    while epoch < settled_at:
        loss_sum, tokens = 0.0, 0
        for batch in draw_epoch(lessons, BATCH, rng):
            left = settled_at - step / steps_per_epoch
            falling = 0.5 * (1 - math.cos(math.pi * min(1.0, left / SETTLING_EPOCHS)))
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * falling * min(1.0, (step + 1) / WARM_UP_STEPS)
            targets = batch.targets[batch.answers]
            loss = functional.cross_entropy(answer_logits(model, batch, lessons.pixels), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            loss_sum += loss.item() * len(targets)
            tokens += len(targets)
        epoch += 1
        if loss_sum / answers <= LEARNT:
            settled_at = min(settled_at, epoch + SETTLING_EPOCHS)
        display.show(epoch, loss_sum / tokens, settled_at if settled_at < MOST_EPOCHS else None)
    model.eval()
    return epoch


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Seed torch and fix its threads inside the block, and leave both as they were."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _silent_saving() -> Iterator[None]:
    """Keep transformers' own progress bar out of ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
