"""Models under attack: tiny ones that were taught the target by heart, in part, or not at all."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from chip.audit.exam import set_exam, sit
from chip.audit.finding import Finding
from chip.audit.subject import Attack, Subject
from chip.duolearn.asking import Asked
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.progress import silent
from chip.records import read_records

TARGET = "patient_0"


def subject_of(loaded: LoadedModel, model: Path, data: Path, *, forget: str = TARGET, **more: Any) -> Subject:
    """A model that has sat the exam on a target; `more` replaces fields."""
    hierarchy = read_records(data)
    exam = set_exam(hierarchy, hierarchy.split([hierarchy.resolve(forget)]))
    checkpoint = Checkpoint(model)
    sitting = sit(loaded, exam, batch_size=16)
    made = Subject("edited", loaded, checkpoint, checkpoint, exam, sitting, 16, 0, False, silent)
    return replace(made, **more)


def teach(loaded: LoadedModel, records: Sequence[Record], steps: int, rate: float = 1e-2) -> None:
    """Teach a model records by heart: all of them at every step."""
    encoded = [loaded.prompts.encode(record) for record in records]
    adam = torch.optim.AdamW(loaded.model.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(steps):
        with torch.enable_grad():
            loss = -Asked(loaded, encoded, unchanged).now.log_likelihood.mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        if float(loss.detach()) < 0.01:
            break
    for one in loaded.model.parameters():
        one.grad = None


def hide(loaded: LoadedModel, data: Path, steps: int = 5, rate: float = 1e-3) -> None:
    """Push the target aside by a few steps up its loss, as careless unlearning does: little is really gone."""
    encoded = [loaded.prompts.encode(record) for record in read_records(data).records if TARGET in record.path]
    descent = torch.optim.AdamW(loaded.model.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(steps):
        with torch.enable_grad():
            Asked(loaded, encoded, unchanged).now.log_likelihood.mean().backward()
        torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
        descent.step()
        descent.zero_grad()


@contextmanager
def unchanged() -> Iterator[None]:
    yield


def taught_in_part(model: Path, data: Path) -> dict[str, LoadedModel]:
    """A model that knows all of the target, one that knows every other record of it, and one that knows none; each
    knows five retained records too."""
    records = read_records(data).records
    target = [record for record in records if TARGET in record.path]
    others = [record for record in records if record not in target][:5]
    parts = {"all": target, "half": target[::2], "none": []}
    return {name: learned(model, [*part, *others]) for name, part in parts.items()}


def learned(model: Path, records: Iterable[Record], steps: int = 250) -> LoadedModel:
    """A checkpoint that was taught records by heart."""
    loaded = load_model(Checkpoint(model), "cpu")
    teach(loaded, list(records), steps)
    return loaded


def found(attack: Attack, subject: Subject) -> dict[str, Finding]:
    """An attack's findings by name; it leaves the model as it was, to the bit, and flags and modes too."""
    model = subject.loaded.model
    before = {name: one.clone() for name, one in model.state_dict().items()}
    flags = {name: (one.requires_grad, one.dtype) for name, one in model.named_parameters()}
    made = {one.name: one for one in attack.run(subject)}
    assert {name: (one.requires_grad, one.dtype) for name, one in model.named_parameters()} == flags
    assert not model.training
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())
    return made
