"""Every method told to forget the same thing, as a user would type it, and audited beside a model retrained without it.

A case is a model, its records and the nodes to forget. Each method runs as `chip edit`, and what it leaves as
`chip audit`, in processes of their own, the former for so many seconds of the processor at most. What was done is kept and not
done again, unless the command is another one by now; a method that reaches its limit, or fails, is kept as one that did.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from commands import METHODS, attempt, changed, run

from chip.edit import load_edit

BEFORE, RETRAINED = "before", "retrained without the target"

METRICS = ("forgetting_rate", "knowledge_preservation", "mia_resistance", "hmta")

Outcome = dict[str, Any]
"""One model, as plain values. command, seconds (of the processor, search and verification too), memory (its peak, MiB),
tried (edits), goals_met (chip's own), numbers (how many the edit is made of), changed (parameters that differ), or
problem, why there is no edit; and of the audit, audit (its command), groups (by name: records, exact match with its
interval, loss in nats a token), metrics (those of docs/duolearn.md), distance (of the target's losses to the retrained
model's, nats), findings (by attack, then probe), verdicts (by attack) and answers (gone, kept, stays gone)."""


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


@dataclass(frozen=True)
class Bounds:
    """What a method may take: edits that it may try, and seconds of the processor; and what its audit is told."""

    trials: int
    seconds: int
    audit: str

    def edit(self, flags: str) -> str:
        return flags if "--no-tune" in flags else f"{flags} --trials {self.trials}"


class Kept:
    """What was done, by what it is of; the file is written anew after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, Outcome] = json.loads(path.read_text()) if path.exists() else {}

    def once(self, key: str, step: str, command: str, do: Callable[[], Outcome]) -> None:
        """Do a step and add what came of it, unless it was done by the same command."""
        known = self.found.get(key, {})
        if known.get(step) != command:
            self.found[key] = {**known, **do(), step: command}
            self._path.write_text(json.dumps(self.found, indent=1) + "\n")
            typer.echo(f"{key}: {step} done", err=True)


def measure(case: Case, bounds: Bounds, kept: Kept, folder: Path, methods: Mapping[str, str] = METHODS) -> None:
    """Do what is not done yet of a case. Under `folder` lie the edited checkpoints and the audits' reports."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, flags in methods.items():
        key, out = key_of(case, name), folder / _slug(name)
        command = bounds.edit(flags.format(last=case.layers - 1))
        told = f"{command} within {bounds.seconds} s"
        kept.once(key, "command", told, lambda: _edited(case, command, out, bounds.seconds))  # noqa: B023
        if not kept.found[key].get("problem"):
            kept.once(key, "audit", bounds.audit, lambda: _audited(case, bounds, out, kept))  # noqa: B023


def key_of(case: Case, name: str) -> str:
    return f"{case.data_set} | {case.level} | {name}"


def collected(model: Path, data: Path, folder: Path) -> None:
    """The statistics of a data set, where every later request on its model looks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{model.name}.statistics.safetensors"
    if not file.exists():
        run(_chip("collect", str(model), "--data", str(data), "--out", str(file), "--json"), folder)


def _edited(case: Case, flags: str, out: Path, limit: int) -> Outcome:
    edit = out.with_name(f"{out.name}.edit.safetensors")
    shutil.rmtree(out, ignore_errors=True)
    where = ["--out", str(out), "--edit-out", str(edit), "--force"]
    ran = attempt(_chip("edit", str(case.model), *shlex.split(flags), *_asked(case), *where), out.parent, limit)
    took = {"seconds": ran.seconds, "memory": ran.memory, "problem": ran.problem}
    if ran.problem:
        return took
    return took | {
        "tried": len((ran.said.get("tuning") or {}).get("trials", [None])),
        "goals_met": (ran.said.get("verdict") or {}).get("met"),
        "numbers": sum(one.left.size + (0 if one.right is None else one.right.size) for one in load_edit(edit).changes),
        "changed": changed(case.model, out),
    }


def _audited(case: Case, bounds: Bounds, edited: Path, kept: Kept) -> Outcome:
    """What the audit's report says of the edited model; what it says of the other two is kept beside."""
    report = edited.with_name(f"{edited.name}-audit")
    strangers = ["--nonmembers", str(case.strangers)] if case.strangers else []
    where = ["--gold", str(case.gold), "--out", str(report), "--force"]
    command = _chip(
        "audit", str(case.model), str(edited), *shlex.split(bounds.audit), *strangers, *_asked(case), *where
    )
    ran = run(command, edited.parent)
    found = json.loads((report / "report.json").read_text())
    for name, role in ((BEFORE, "base"), (RETRAINED, "gold")):
        kept.found[key_of(case, name)] = of_model(found, role)
    answers = {name: found["summary"][f"is_{name}"] for name in ("gone", "kept")}
    return of_model(found, "edited") | {
        "verdicts": {one["name"]: one["verdict"] for one in found["attacks"]},
        "answers": {**answers, "stays gone": found["summary"]["stays_gone"]},
        "audit_seconds": ran.seconds,
    }


def of_model(report: Mapping[str, Any], role: str) -> Outcome:
    """The numbers of a report that are of one of its models."""
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


def _slug(name: str) -> str:
    return "-".join(re.findall(r"\w+", name.lower()))


def _chip(*arguments: str) -> list[str]:
    """A command of chip, as this interpreter runs it."""
    return [sys.executable, "-m", "chip", *arguments]
