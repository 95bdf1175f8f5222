"""Every method told to forget the same thing, as a user would type it, and audited beside a model retrained without it.

A case is a model, its records and the nodes to forget. Each method runs as `chip edit` in a process of its own, for so
many seconds of the processor at most, and what it leaves is examined by the code of `chip audit` in this one, where the
models before and retrained are examined once a case. What was done is kept and not done again, unless it is asked for
in another way by now; a method that reaches its limit, or fails, is kept as one that did.
"""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from commands import METHODS, changed

from chip.audit.attacks import ATTACKS
from chip.edit import load_edit
from chip.medforget.attempts import attempt, chip_command, run
from chip.medforget.examination import Examination, How, of_edited, of_model
from chip.records import read_records

BEFORE, RETRAINED = "before", "retrained without the target"

QUICK = [name for name, attack in ATTACKS.items() if attack.quick]
Outcome = dict[str, Any]
"""One model, as plain values. Of its edit: command, seconds (of the processor, search and verification too), memory
(its peak, MiB), tried (edits), goals_met (chip's own), numbers (how many the edit is made of), changed (parameters that
differ), or problem, why there is no edit. Of its audit: audit (the attacks), and what `chip.medforget.examination` says
of a model."""


@dataclass(frozen=True)
class Case:
    """Something to forget. about: what the target is, in words that name nobody. forget: nodes, by their whole paths.
    gold: a model trained without them. layers: of the
    language model. strangers: records that no model here has seen, if there are any."""

    data_set: str
    level: str
    about: str
    model: Path
    data: Path
    forget: tuple[str, ...]
    gold: Path
    layers: int
    strangers: Path | None = None

    @property
    def folder(self) -> Path:
        """Where its edited checkpoints lie, and the statistics of its data."""
        return self.model.with_name("edited")


@dataclass(frozen=True)
class Bounds:
    """What a method may take: edits that it may try, and seconds of the processor; and the attacks of its audit."""

    trials: int
    seconds: int
    attacks: tuple[str, ...]

    def edit(self, flags: str) -> str:
        return flags if "--no-tune" in flags else f"{flags} --trials {self.trials}"


class Kept:
    """What was done, by what it is of; the file is written anew after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, Outcome] = json.loads(path.read_text()) if path.exists() else {}

    def once(self, key: str, step: str, command: str, do: Callable[[], Outcome]) -> None:
        """Do a step and add what came of it, unless the same command did it; an edit made anew drops its audit."""
        known = self.found.get(key, {})
        if known.get(step) != command:
            self.found[key] = {**(known if step == "audit" else {}), **do(), step: command}
            self._path.write_text(json.dumps(self.found, indent=1) + "\n")
            typer.echo(f"{key}: {step} done", err=True)


def measure(case: Case, bounds: Bounds, kept: Kept, methods: Mapping[str, str] = METHODS) -> Iterator[str]:
    """Do what is not done yet of a case, and yield the name of each method that is done."""
    collected(case)
    examination = examined(case, bounds.attacks)
    for name, flags in methods.items():
        key, out = key_of(case, name), case.folder / f"{case.level}-{_slug(name)}"
        command = bounds.edit(flags.format(last=case.layers - 1))
        told = f"{command} within {bounds.seconds} s"
        kept.once(key, "command", told, lambda: _edited(case, command, out, bounds.seconds))  # noqa: B023
        if not kept.found[key]["problem"]:
            kept.once(key, "audit", ", ".join(bounds.attacks), lambda: _audited(case, examination, out, kept))  # noqa: B023
        yield name


def examined(case: Case, attacks: tuple[str, ...]) -> Examination:
    """A quick audit of every edit of a case; the models before and retrained are examined once."""
    hierarchy = read_records(case.data)
    split = hierarchy.split([hierarchy.resolve(node) for node in case.forget])
    return Examination(case.model, case.gold, hierarchy, split, How(attacks, nonmembers=case.strangers, device="cpu"))


def key_of(case: Case, name: str) -> str:
    return f"{case.data_set} | {case.level} | {name}"


def collected(case: Case) -> None:
    """The statistics of a data set, where every later request on its model looks for them."""
    case.folder.mkdir(parents=True, exist_ok=True)
    file = case.folder / f"{case.model.name}.statistics.safetensors"
    if not file.exists():
        run(
            chip_command("collect", str(case.model), "--data", str(case.data), "--out", str(file), "--json"),
            case.folder,
        )


def _edited(case: Case, flags: str, out: Path, limit: int) -> Outcome:
    edit = out.with_name(f"{out.name}.edit.safetensors")
    shutil.rmtree(out, ignore_errors=True)
    where = ["--out", str(out), "--edit-out", str(edit), "--force"]
    ran = attempt(chip_command("edit", str(case.model), *shlex.split(flags), *_asked(case), *where), out.parent, limit)
    took = {"seconds": ran.seconds, "memory": ran.memory, "problem": _nameless(ran.problem, case)}
    if ran.problem:
        return took
    return took | {
        "tried": len((ran.said.get("tuning") or {}).get("trials", [None])),
        "goals_met": (ran.said.get("verdict") or {}).get("met"),
        "numbers": sum(one.left.size + (0 if one.right is None else one.right.size) for one in load_edit(edit).changes),
        "changed": changed(case.model, out),
    }


def _audited(case: Case, examination: Examination, edited: Path, kept: Kept) -> Outcome:
    """What the audit's report says of the edited model; what it says of the other two is kept beside."""
    report = examination.report(edited)
    for name, role in ((BEFORE, "base"), (RETRAINED, "gold")):
        kept.found[key_of(case, name)] = of_model(report, role)
    return of_edited(report)


def _asked(case: Case) -> list[str]:
    return ["--data", str(case.data), *(flag for node in case.forget for flag in ("--forget", node)), "--json"]


def _nameless(problem: str, case: Case) -> str:
    names = {part for node in case.forget for part in node.split("/")}
    return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), "…", problem)


def _slug(name: str) -> str:
    return "-".join(re.findall(r"\w+", name.lower()))
