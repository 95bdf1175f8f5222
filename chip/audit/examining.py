"""Examining models one after the other: each is loaded once, sits the exam, and is attacked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from chip.audit.exam import Exam, Sitting, sit
from chip.audit.finding import Finding
from chip.audit.harness import Results, evaluate
from chip.audit.judging import Judge
from chip.audit.kept import KeptAudit
from chip.audit.subject import Attack, Role, Subject
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.progress import Track


@dataclass(frozen=True)
class Examined:
    """What one model made of the exam, and what each attack got back from it, by the attack's name."""

    sitting: Sitting
    findings: dict[str, tuple[Finding, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Examiner:
    """How models are examined. base: the model before the edit. attacks: those that are made."""

    exam: Exam
    base: Checkpoint
    attacks: Sequence[Attack]
    kept: KeptAudit
    device: str
    dtype: str
    batch_size: int
    seed: int
    quick: bool
    track: Track

    def sitting(self, name: str, model: "Model") -> Sitting:
        """What a model makes of the exam. name: what it is called, in messages and in what is kept."""
        part = f"{name} | exam"
        if (found := self.kept.get(part)) is not None:
            return Sitting.from_json(found)
        made = sit(model.loaded, self.exam, batch_size=self.batch_size, track=self.track, doing=f"{name}: the exam")
        self.kept.put(part, made.as_json())
        return made

    def marks(self, role: str, sitting: Sitting, judge: Judge) -> dict[tuple[str, int], float]:
        """What a judge gives for every answer that was generated, by group and place."""
        part = f"{role} | marks"
        if (found := self.kept.get(part)) is None:
            asked = [
                (group, place)
                for group in self.exam.groups
                for place, record in enumerate(group.records)
                if record.text is None
            ]
            found = [
                [group.name, place, judge.mark(group.records[place], sitting.answers[group.name, place].text)]
                for group, place in self.track(asked, f"{role}: asking the judge")
            ]
            self.kept.put(part, found)
        return {(group, place): mark for group, place, mark in found}

    def harness(self, role: str, model: "Model", tasks: Sequence[str], directory: Path | None) -> Results:
        """What a model makes of tasks of the evaluation harness."""
        part = f"{role} | harness | {' '.join(tasks)}"
        if (found := self.kept.get(part)) is None:
            (found,) = (
                evaluate(model.loaded, tasks, directory, self.batch_size)
                for _ in self.track([part], f"{role}: the evaluation harness")
            )
            self.kept.put(part, found)
        results: Results = found
        return results

    def attacked(self, role: Role, model: "Model", sitting: Sitting) -> Examined:
        """What every attack gets back from a model."""
        return Examined(sitting, {one.name: self._findings(role, model, sitting, one) for one in self.attacks})

    def _findings(self, role: Role, model: "Model", sitting: Sitting, attack: Attack) -> tuple[Finding, ...]:
        part = f"{role} | {attack.name}"
        if (found := self.kept.get(part)) is not None:
            return tuple(Finding.from_json(one) for one in found)
        subject = Subject(
            role,
            model.loaded,
            model.checkpoint,
            self.base,
            self.exam,
            sitting,
            self.batch_size,
            self.seed,
            self.quick,
            self.track,
        )
        made = attack.run(subject)
        self.kept.put(part, [one.as_json() for one in made])
        return made

    def model(self, checkpoint: Checkpoint) -> "Model":
        """A checkpoint that is loaded as soon as something is asked of it, and not where all is kept."""
        return Model(checkpoint, self.device, self.dtype)


@dataclass(frozen=True)
class Model:
    """A checkpoint, and the model in memory from the first time that it is needed on."""

    checkpoint: Checkpoint
    device: str
    dtype: str

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(self.checkpoint, self.device, self.dtype)
