"""What is tried on an edited hospital model to bring the target back: a little fine-tuning.

The model is left as it was.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from chip.hospital.encoding import Example, collate
from chip.hospital.training import answer_logits
from torch import Tensor, nn
from torch.nn import functional

LEARNING_RATE = 5e-4
"""A third of what the hospital was trained with, and constant."""

BATCH = 16
_AT_ONCE = 96


@dataclass(frozen=True)
class Subject:
    """A hospital model under attack: `pixels` (images, 3, height, width) of all its images, `pad` its padding token."""

    model: nn.Module
    pixels: Tensor
    pad: int


@dataclass(frozen=True)
class Asked:
    """Share of the examples whose whole answer is the likeliest, and their mean loss in nats a token."""

    match: float
    loss: float


@torch.no_grad()
def ask(subject: Subject, examples: Sequence[Example]) -> Asked:
    """With teacher forcing: greedy generation gives an answer in full exactly where each of its tokens is likeliest."""
    right, losses = 0, []
    for start in range(0, len(examples), _AT_ONCE):
        batch = collate(examples[start : start + _AT_ONCE], subject.pad)
        logits, targets = answer_logits(subject.model, batch, subject.pixels), batch.targets[batch.answers]
        sizes = batch.answers.sum(1).tolist()
        right += sum(bool(one.all()) for one in (logits.argmax(-1) == targets).split(sizes))
        each = functional.cross_entropy(logits, targets, reduction="none").split(sizes)
        losses += [float(one.mean()) for one in each]
    count = max(len(examples), 1)
    return Asked(right / count, sum(losses) / count)


@contextmanager
def relearned(subject: Subject, examples: Sequence[Example], steps: int) -> Iterator[None]:
    """Within, the model has been fine-tuned on examples: AdamW, batches of 16 drawn by a fixed seed, all weights."""
    draw, parameters = random.Random(0), list(subject.model.parameters())
    with _as_before(subject.model):
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        for _ in range(steps):
            batch = collate(draw.sample(list(examples), min(BATCH, len(examples))), subject.pad)
            logits = answer_logits(subject.model, batch, subject.pixels)
            loss = functional.cross_entropy(logits, batch.targets[batch.answers])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    kept = {name: one.clone() for name, one in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(kept)
