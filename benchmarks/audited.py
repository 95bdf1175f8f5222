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
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import typer
from commands import METHODS, attempt, changed, run

from chip.audit.attacks import ATTACKS
from chip.audit.audit import Audit
from chip.audit.changes import changes
from chip.audit.exam import set_exam
from chip.audit.examining import Examined, Examiner
from chip.audit.kept import KeptAudit
from chip.audit.report import compose
from chip.audit.subject import Role
from chip.edit import load_edit
from chip.models.checkpoint import Checkpoint
from chip.progress import silent
from chip.records import read_records

BEFORE, RETRAINED = "before", "retrained without the target"

QUICK = [name for name, attack in ATTACKS.items() if attack.quick]
METRICS = ("forgetting_rate", "knowledge_preservation", "mia_resistance", "hmta")

Outcome = dict[str, Any]
"""One model, as plain values. Of its edit: command, seconds (of the processor, search and verification too), memory
(its peak, MiB), tried (edits), goals_met (chip's own), numbers (how many the edit is made of), changed (parameters that
differ), or problem, why there is no edit. Of its audit: audit (the attacks), groups (by name: records, exact match with
its interval, loss in nats a token), metrics (those of docs/duolearn.md), distance (of the target's losses to the
retrained model's, nats), findings (by attack and probe), verdicts (by attack) and answers (gone, kept, stays gone)."""


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


class Auditor:
    """A quick audit of every edit of a case. The models before and retrained are examined once, and only if need be."""

    def __init__(self, case: Case, attacks: tuple[str, ...]) -> None:
        hierarchy = read_records(case.data)
        split = hierarchy.split([hierarchy.resolve(node) for node in case.forget])
        self._case, self._base = case, Checkpoint(case.model)
        self._exam = set_exam(hierarchy, split, nonmembers=case.strangers)
        self._attacks = tuple(ATTACKS[name] for name in attacks)

    def report(self, edited: Path) -> dict[str, Any]:
        """What `chip audit` writes to report.json."""
        versions = {"base": self._before, "edited": self._examined("edited", edited), "gold": self._gold}
        audit = Audit(
            self._exam,
            self._attacks,
            versions,
            methods={},
            changes=changes(self._base, Checkpoint(edited), silent),
            factuality={},
            harness={},
        )
        return compose(audit, {}, show_records=False)

    @cached_property
    def _before(self) -> Examined:
        return self._examined("base", self._case.model)

    @cached_property
    def _gold(self) -> Examined:
        return self._examined("gold", self._case.gold)

    def _examined(self, role: Role, directory: Path) -> Examined:
        kept = KeptAudit(None, "", lambda _: None)
        examiner = Examiner(self._exam, self._base, self._attacks, kept, "cpu", "auto", 32, 0, True, silent)
        model = examiner.model(Checkpoint(directory))
        return examiner.attacked(role, model, examiner.sitting(role, model))


def measure(case: Case, bounds: Bounds, kept: Kept, methods: Mapping[str, str] = METHODS) -> Iterator[str]:
    """Do what is not done yet of a case, and yield the name of each method that is done."""
    collected(case)
    auditor = Auditor(case, bounds.attacks)
    for name, flags in methods.items():
        key, out = key_of(case, name), case.folder / f"{case.level}-{_slug(name)}"
        command = bounds.edit(flags.format(last=case.layers - 1))
        told = f"{command} within {bounds.seconds} s"
        kept.once(key, "command", told, lambda: _edited(case, command, out, bounds.seconds))  # noqa: B023
        if not kept.found[key]["problem"]:
            kept.once(key, "audit", ", ".join(bounds.attacks), lambda: _audited(case, auditor, out, kept))  # noqa: B023
        yield name


def key_of(case: Case, name: str) -> str:
    return f"{case.data_set} | {case.level} | {name}"


def collected(case: Case) -> None:
    """The statistics of a data set, where every later request on its model looks for them."""
    case.folder.mkdir(parents=True, exist_ok=True)
    file = case.folder / f"{case.model.name}.statistics.safetensors"
    if not file.exists():
        run(_chip("collect", str(case.model), "--data", str(case.data), "--out", str(file), "--json"), case.folder)


def _edited(case: Case, flags: str, out: Path, limit: int) -> Outcome:
    edit = out.with_name(f"{out.name}.edit.safetensors")
    shutil.rmtree(out, ignore_errors=True)
    where = ["--out", str(out), "--edit-out", str(edit), "--force"]
    ran = attempt(_chip("edit", str(case.model), *shlex.split(flags), *_asked(case), *where), out.parent, limit)
    took = {"seconds": ran.seconds, "memory": ran.memory, "problem": _nameless(ran.problem, case)}
    if ran.problem:
        return took
    return took | {
        "tried": len((ran.said.get("tuning") or {}).get("trials", [None])),
        "goals_met": (ran.said.get("verdict") or {}).get("met"),
        "numbers": sum(one.left.size + (0 if one.right is None else one.right.size) for one in load_edit(edit).changes),
        "changed": changed(case.model, out),
    }


def _audited(case: Case, auditor: Auditor, edited: Path, kept: Kept) -> Outcome:
    """What the audit's report says of the edited model; what it says of the other two is kept beside."""
    report = auditor.report(edited)
    for name, role in ((BEFORE, "base"), (RETRAINED, "gold")):
        kept.found[key_of(case, name)] = of_model(report, role)
    answers = {name: report["summary"][f"is_{name}"] for name in ("gone", "kept")}
    return of_model(report, "edited") | {
        "verdicts": {one["name"]: one["verdict"] for one in report["attacks"]},
        "answers": {**answers, "stays gone": report["summary"]["stays_gone"]},
    }


def of_model(report: Mapping[str, Any], role: str) -> Outcome:
    """The numbers of a report that are of one of its models; no node is named."""
    groups = {}
    for one in report["groups"]:
        if not one["level"]:
            match, loss = (one["measures"][role][name] for name in ("exact_match", "loss"))
            groups[one["name"]] = {
                "asked": one["asked"], "of": one["of"], "match": match["value"], "interval": match["interval"],
                "loss": loss["value"],
            }  # fmt: skip
    published, when = report["published"]["edited" if role == "base" else role], "before" if role == "base" else "after"
    return {
        "groups": groups,
        "metrics": {name: published[name][when] for name in METRICS},
        "distance": report["distribution"].get(role, {}).get("distance"),
        "findings": {
            attack["name"]: {one["name"]: one["models"][role]["value"] for one in attack["findings"]}
            for attack in report["attacks"]
        },
    }


def _asked(case: Case) -> list[str]:
    return ["--data", str(case.data), *(flag for node in case.forget for flag in ("--forget", node)), "--json"]


def _nameless(problem: str, case: Case) -> str:
    names = {part for node in case.forget for part in node.split("/")}
    return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), "…", problem)


def _slug(name: str) -> str:
    return "-".join(re.findall(r"\w+", name.lower()))


def _chip(*arguments: str) -> list[str]:
    """A command of chip, as this interpreter runs it."""
    return [sys.executable, "-m", "chip", *arguments]
