"""Every method told to forget the same thing, as a user would type it, and audited beside a model retrained without it.

A case is a model, its records and the nodes to forget. Each method runs as `chip edit` in a process of its own, for so
many seconds of the processor at most. What was measured is kept in a file and not measured again, unless the command is
another one by now; a method that reaches its limit, or fails, is kept as one that did.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import typer
from commands import METHODS, Ran, attempt, changed, run

from chip.audit import Exam, Sitting, metrics_of, set_exam, sit
from chip.edit import load_edit
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.records import read_records

BEFORE, RETRAINED = "before", "retrained without the target"
METRICS = ("forgetting_rate", "knowledge_preservation", "mia_resistance", "hmta")


@dataclass(frozen=True)
class Case:
    """Something to forget. about: what the target is, in words that name nobody. forget: nodes, by their whole paths.
    gold: a model trained without them. strangers: records that no model here has seen, if there are any. records: how
    many retained records are asked of a group."""

    data_set: str
    level: str
    about: str
    model: Path
    data: Path
    forget: tuple[str, ...]
    gold: Path
    gold_seconds: float
    strangers: Path | None = None
    records: int = 10_000


@dataclass(frozen=True)
class Bounds:
    """What a method may take: edits that it may try, and seconds of the processor."""

    trials: int
    seconds: int

    def applied(self, flags: str) -> str:
        return flags if "--no-tune" in flags else f"{flags} --trials {self.trials}"


@dataclass(frozen=True)
class Outcome:
    """One model. matches: by group, the share of records answered in full by greedy generation; losses: nats a token of
    the true answers. metrics: those of docs/duolearn.md by name, None where chip gives none. seconds: of the processor,
    search and verification too. memory: its peak, in MiB. tried: edits. changed: parameters that differ. numbers: how
    many the edit is made of. goals_met: chip's own. problem: why there is no model to measure, if so."""

    matches: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float | None = None
    memory: float | None = None
    tried: int | None = None
    changed: int | None = None
    numbers: int | None = None
    goals_met: bool | None = None
    problem: str = ""


class Kept:
    """What was measured, by what it is of; the file is written anew after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def once(self, key: str, command: str, measure: Callable[[], Outcome]) -> None:
        """Measure, unless it was measured under the same command."""
        if key in self.found and self.found[key]["command"] == command:
            return
        self.found[key] = {"command": command, **asdict(measure())}
        self._path.write_text(json.dumps(self.found, indent=1) + "\n")
        typer.echo(f"{key}: {self.found[key]}", err=True)


class Measuring:
    """A case, its exam, and what the model made of it before anything was forgotten."""

    def __init__(self, case: Case, folder: Path) -> None:
        self._case, self._folder = case, folder
        hierarchy = read_records(case.data)
        split = hierarchy.split([hierarchy.resolve(node) for node in case.forget])
        self._exam: Exam = set_exam(hierarchy, split, nonmembers=case.strangers, records=case.records)
        self._before = self._sitting(case.model)

    def before(self) -> Outcome:
        return self._outcome(self._before)

    def retrained(self) -> Outcome:
        found = self._outcome(self._sitting(self._case.gold))
        return Outcome(found.matches, found.losses, found.metrics, self._case.gold_seconds)

    def edited(self, flags: str, limit: int) -> Outcome:
        """Forget by `chip edit`, and ask what came of it."""
        out, edit = self._folder / "edited", self._folder / "edited.edit.safetensors"
        shutil.rmtree(out, ignore_errors=True)
        forget = [flag for node in self._case.forget for flag in ("--forget", node)]
        where = ["--data", str(self._case.data), "--out", str(out), "--edit-out", str(edit), "--force", "--json"]
        ran = attempt(chip("edit", str(self._case.model), *shlex.split(flags), *forget, *where), self._folder, limit)
        if ran.problem:
            return Outcome(seconds=ran.seconds, memory=ran.memory, problem=ran.problem)
        found = self._outcome(self._sitting(out))
        changes = load_edit(edit).changes
        return Outcome(
            found.matches,
            found.losses,
            found.metrics,
            ran.seconds,
            ran.memory,
            len((ran.said.get("tuning") or {}).get("trials", [None])),
            changed(self._case.model, out),
            sum(one.left.size + (0 if one.right is None else one.right.size) for one in changes),
            (ran.said.get("verdict") or {}).get("met"),
        )

    def _sitting(self, model: Path) -> Sitting:
        return sit(load_model(Checkpoint(model), "cpu"), self._exam, batch_size=32)

    def _outcome(self, sitting: Sitting) -> Outcome:
        metrics = metrics_of(self._exam, self._before, sitting)
        answers = {
            group.name: [sitting.answers[group.name, place] for place in range(len(group.records))]
            for group in self._exam.groups
        }
        return Outcome(
            {name: fmean(one.exact for one in found) for name, found in answers.items()},
            {name: fmean(one.loss for one in found) for name, found in answers.items()},
            {name: getattr(metrics, name).after for name in METRICS},
        )


def measure(case: Case, bounds: Bounds, kept: Kept, folder: Path, methods: Mapping[str, str] = METHODS) -> None:
    """Run what is not measured yet of a case. `folder` is where checkpoints come and go."""
    folder.mkdir(parents=True, exist_ok=True)
    measuring = Measuring(case, folder)
    key = f"{case.data_set} | {case.level}"
    kept.once(f"{key} | {BEFORE}", "", measuring.before)
    kept.once(f"{key} | {RETRAINED}", "", measuring.retrained)
    for name, flags in methods.items():
        command = bounds.applied(flags)
        told = f"{command} within {bounds.seconds} s"
        kept.once(f"{key} | {name}", told, lambda command=command: measuring.edited(command, bounds.seconds))


def collected(model: Path, data: Path, folder: Path) -> Ran:
    """The statistics of a data set, where every later request on its model looks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{model.name}.statistics.safetensors"
    return run(chip("collect", str(model), "--data", str(data), "--out", str(file), "--json"), folder)


def chip(*arguments: str) -> list[str]:
    """A command of chip, as this interpreter runs it."""
    return [sys.executable, "-m", "chip", *arguments]
