"""Learning by heart: the loop that trains the examples' models until they know every answer, and how it is measured.

The learning rate holds until the epoch's answer loss is low, then falls to nothing over a fixed number of epochs, so
that larger data and smaller vocabularies take the time they need.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils import logging

from .encoding import Batch, Example, collate
from .progress import TrainingProgress

WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 20
POOL = 6  # batches that share a draw, sorted by length so that little is padded
THREADS = 1  # two are little faster alone and far slower on a busy machine; the number also decides the last bits

Logits = Callable[[Batch], Tensor]
"""A batch's logits at its answer positions, (answer tokens, vocabulary)."""


@dataclass(frozen=True)
class Course:
    """How something is learnt: `batch` answers a step, at `learning_rate` until an epoch's answers cost `learnt` nats
    each on average, and then over `settling` more epochs down to nothing; `most_epochs` in all."""

    batch: int = 48
    learning_rate: float = 1.5e-3
    learnt: float = 1.5
    settling: int = 20
    most_epochs: int = 100


def learn(
    model: nn.Module, logits: Logits, epoch_of: Callable[[], Iterable[Batch]], answers: int, course: Course, shown: bool
) -> int:
    """Train in place; return the number of epochs. `epoch_of` yields the batches of another epoch of so many answers;
    `shown` tells on standard error how it goes."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=course.learning_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True
    )
    steps_per_epoch = math.ceil(answers / course.batch)
    step, epoch, settled_at = 0, 0, course.most_epochs
    model.train()
    with TrainingProgress(shown, course.settling) as display:
        while epoch < settled_at:
            loss_sum, tokens = 0.0, 0
            for batch in epoch_of():
                left = settled_at - step / steps_per_epoch
                falling = 0.5 * (1 - math.cos(math.pi * min(1.0, left / course.settling)))
                warm = min(1.0, (step + 1) / WARM_UP_STEPS)
                optimizer.param_groups[0]["lr"] = course.learning_rate * falling * warm
                targets = batch.targets[batch.answers]
                loss = functional.cross_entropy(logits(batch), targets)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                step += 1
                loss_sum += loss.item() * len(targets)
                tokens += len(targets)
            epoch += 1
            if loss_sum / answers <= course.learnt:
                settled_at = min(settled_at, epoch + course.settling)
            display.show(epoch, loss_sum / tokens, settled_at if settled_at < course.most_epochs else None)
    model.eval()
    return epoch


def draw_by_length(phrasings: Sequence[Sequence[Example]], size: int, pad: int, rng: random.Random) -> Iterator[Batch]:
    """An epoch: every record once, in random order, in one of its wordings, `phrasings[p][record]`; records of like
    length side by side, `size` at a time."""
    count, drawn = len(phrasings[0]), POOL * size
    order = rng.sample(range(count), count)
    for start in range(0, count, drawn):
        pool = [rng.choice(phrasings)[record] for record in order[start : start + drawn]]
        pool.sort(key=lambda example: len(example.tokens))
        batches = [pool[at : at + size] for at in range(0, len(pool), size)]
        for batch in rng.sample(batches, len(batches)):
            yield collate(batch, pad)


@torch.no_grad()
def evaluate(logits: Logits, examples: Sequence[Example], pad: int, at_once: int = 96) -> tuple[float, float]:
    """Exact match and mean answer loss with teacher forcing; greedy generation is right exactly where this is."""
    right, loss, tokens = 0, 0.0, 0
    for start in range(0, len(examples), at_once):
        batch = collate(examples[start : start + at_once], pad)
        scores, targets = logits(batch), batch.targets[batch.answers]
        correct = torch.ones_like(batch.answers)
        correct[batch.answers] = scores.argmax(-1) == targets
        right += int(correct.all(1).sum())
        loss += float(functional.cross_entropy(scores, targets, reduction="sum"))
        tokens += len(targets)
    return right / len(examples), loss / tokens


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
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
def silent_saving() -> Iterator[None]:
    """Keep transformers' own progress bar out of ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
