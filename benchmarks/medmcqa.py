"""Every method, told to forget Surgery, on a language model that knows six subjects of MedMCQA by heart.

    python benchmarks/medmcqa.py --data DIR [--work DIR] [--method NAME …] [--trials 4]

`DIR` is a copy of MedMCQA as records. The exam of `examples/medmcqa` is built under `--work`, with the model retrained
without Surgery; then each method runs as the command that a user would type, in a process of its own, with the same
number of edits that it may try before it settles for one. What was measured is kept under `--work` and not measured
again, unless the command is another one by now. Writes `benchmarks/results/medmcqa.md`, `.json` and two figures. Some
minutes a method, and ten for building the exam.
"""

import json
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from chip.medmcqa import ExamPlan, fitting_records, read_exam, write_exam
from chip.medmcqa.building import build_exam, training_of
from commands import METHODS, changed
from medmcqa_page import write_page

from chip.audit import Sitting, metrics_of, set_exam, sit
from chip.cli.options import quiet_libraries
from chip.measure import Group
from chip.medforget.attempts import Ran, run
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.records import read_records

TARGET = "Surgery"
EVERYTHING = 10_000
"""More records than there are, so that every one is asked."""

BEFORE, RETRAINED = "before", "retrained without the target"
LOGGED = "--method duolearn"
"""What begins the flags of a method whose training is logged."""


@dataclass(frozen=True)
class Outcome:
    """One method. Accuracies are shares of records answered in full by greedy generation, the letter with the option:
    of the target in the data's wording, in the one that training saw beside it, and in the one it never saw; of the
    target's siblings (a subject has none); and of each subject. loss: nats a token of the target's true answers.

    forgetting_rate (FR), preservation (KPR), chance_corrected, invalid (of the target), invalid_rest, mia_resistance
    (non-members are questions of the target's subject that were not drawn) and hmta are those of chip.audit.formulas,
    None where chip gives none.
    seconds: of the processor, search and verification too. memory: its peak, in MiB. changed: parameters that differ.
    goals_met: whether chip's own goals were met on what was not tuned on.
    """

    target: float
    rephrased: float
    held_out: float
    siblings: float | None
    subjects: dict[str, float]
    loss: float
    forgetting_rate: float | None
    preservation: float | None
    chance_corrected: float | None
    invalid: float | None
    invalid_rest: float | None
    mia_resistance: float | None
    hmta: float | None
    seconds: float | None
    memory: float | None
    changed: int
    goals_met: bool | None


def main(
    data: Annotated[Path, typer.Option(help="MedMCQA as records: a directory with records.jsonl.")],
    work: Annotated[Path, typer.Option(help="Where the exam and the outcomes are kept.")] = Path("build/medmcqa"),
    method: Annotated[list[str], typer.Option(help="Names as in the table; all by default.")] = list(METHODS),  # noqa: B006
    trials: Annotated[int, typer.Option(help="Edits that each method may try.")] = 4,
) -> None:
    """Run the methods that are not measured yet, and write the results."""
    quiet_libraries()
    torch.set_num_threads(1)
    build_exam(work, data, without=[TARGET])
    exam = Measuring(work, data)
    kept = work / "outcomes.json"
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    asked = {BEFORE: "", **{name: METHODS[name].format(last=ExamPlan.layers - 1) for name in method}, RETRAINED: ""}
    for name, flags in asked.items():
        command = f"{flags} --trials {trials}" if flags and "--no-tune" not in flags else flags
        if name not in found or found[name]["command"] != command:
            outcome = exam.outcome(name, command)
            found[name] = {"command": command, "outcome": asdict(outcome)}
            kept.write_text(json.dumps(found, indent=1) + "\n")
            typer.echo(f"{name}: {outcome}")
    order = [name for name in (BEFORE, *METHODS, RETRAINED) if name in found]
    logs = {name: exam.log(name) for name in order if exam.log(name).exists()}
    write_page({name: found[name] for name in order}, logs, asdict(training_of(work / "model")))


class Measuring:
    """A built exam, what it asks, and what the model before answers to it."""

    def __init__(self, directory: Path, data: Path) -> None:
        self.directory, unseen = directory, directory / "unseen"
        hierarchy = read_records(directory / "records")
        if not unseen.exists():
            seen = {record.question for record in read_exam(directory / "records")}
            fitting = fitting_records(data, ExamPlan())[TARGET]
            write_exam(unseen, [record for _, record in fitting if record.question not in seen])
        split = hierarchy.split([hierarchy.resolve(TARGET)])
        self.exam = set_exam(hierarchy, split, nonmembers=unseen, records=EVERYTHING)
        self._before = self._sat(directory / "model")

    def log(self, name: str) -> Path:
        """Where a method's training is logged."""
        return self._folder(name) / "training.jsonl"

    def outcome(self, name: str, command: str) -> Outcome:
        """Forget by a method, or take the model before or the retrained one, and ask what came of it."""
        model, retrained = self.directory / "model", self.directory / "retrained"
        if name == BEFORE:
            return self._measured(model, Ran())
        if name == RETRAINED:
            return self._measured(retrained, Ran(training_of(retrained).seconds))
        folder = self._folder(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        flags = [*shlex.split(command), "--out", str(folder / "model"), "--json", "--verify-records", str(EVERYTHING)]
        if command.startswith(LOGGED):
            flags += ["--training-log", str(self.log(name))]
        records = ["--data", str(self.directory / "records"), "--forget", TARGET]
        ran = run([sys.executable, "-m", "chip", "edit", str(model), *records, *flags], folder)
        outcome = self._measured(folder / "model", ran)
        shutil.rmtree(folder / "model")
        return outcome

    def _measured(self, model: Path, ran: Ran) -> Outcome:
        sat = self._sat(model)
        metrics = metrics_of(self.exam, self._before, sat)
        first, second, third = (group for group in self.exam.groups if group.phrasing)
        return Outcome(
            target=_accuracy(sat, first),
            rephrased=_accuracy(sat, second),
            held_out=_accuracy(sat, third),
            siblings=None,
            subjects=self._by_subject(sat),
            loss=fmean(sat.answers[first.name, place].loss for place in range(len(first.records))),
            forgetting_rate=metrics.forgetting_rate.after,
            preservation=metrics.knowledge_preservation.after,
            chance_corrected=metrics.chance_corrected_forgetting.after,
            invalid=metrics.invalid_target.after,
            invalid_rest=metrics.invalid_retained.after,
            mia_resistance=metrics.mia_resistance.after,
            hmta=metrics.hmta.after,
            seconds=ran.seconds,
            memory=ran.memory,
            changed=changed(self.directory / "model", model),
            goals_met=(ran.said.get("verdict") or {}).get("met"),
        )

    def _sat(self, model: Path) -> Sitting:
        return sit(load_model(Checkpoint(model), "cpu"), self.exam, batch_size=32)

    def _by_subject(self, sat: Sitting) -> dict[str, float]:
        """Accuracy in the data's wording, the target's subject first."""
        right: dict[str, list[bool]] = {}
        for group in (self.exam.target, *self.exam.retained):
            for place, record in enumerate(group.records):
                right.setdefault(record.path[0], []).append(sat.answers[group.name, place].exact)
        order = sorted(right, key=lambda subject: (subject != TARGET, subject))
        return {subject: fmean(right[subject]) for subject in order}

    def _folder(self, name: str) -> Path:
        return self.directory / "methods" / "".join(sign if sign.isalnum() else "-" for sign in name)


def _accuracy(sat: Sitting, group: Group) -> float:
    return fmean(sat.answers[group.name, place].exact for place in range(len(group.records)))


if __name__ == "__main__":
    typer.run(main)
