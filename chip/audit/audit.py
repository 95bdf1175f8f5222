"""The audit as a value: what every model made of the exam and of the attacks, and the verdicts on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from chip.audit.changes import Change
from chip.audit.exam import Exam, Sitting
from chip.audit.examining import Examined
from chip.audit.finding import Finding
from chip.audit.harness import Results
from chip.audit.metrics import exact_match, parts
from chip.audit.subject import Attack
from chip.audit.verdicts import Judgement, Verdict, judge, worst

GOLD_KNOWS = 0.5
"""A retrained model that answers more than this share of what the base does has probably been trained with the target;
less than that may be common answers, which it guesses."""

Versions = Mapping[str, Examined]
"""The examined models by role: `base`, `edited` and, where there is one, `gold`."""


@dataclass(frozen=True)
class Audit:
    """What was found. methods: what other checkpoints, by name, made of the exam. factuality: a judge's marks, by
    role, group and place. harness: results of the evaluation harness, by role."""

    exam: Exam
    attacks: tuple[Attack, ...]
    versions: Versions
    methods: Mapping[str, Sitting]
    changes: tuple[Change, ...]
    factuality: Mapping[str, Mapping[tuple[str, int], float]]
    harness: Mapping[str, Results]
    seed: int = 0

    @cached_property
    def judgements(self) -> dict[str, dict[str, Judgement]]:
        """By attack and finding, the verdict on the edited model."""
        return {attack.name: self._judged(attack.name) for attack in self.attacks}

    @property
    def gold_knows(self) -> bool:
        """Whether the retrained model seems to have been trained with the target after all."""
        return "gold" in self.versions and self.known("gold") > GOLD_KNOWS * self.known("base") > 0

    def known(self, role: str) -> float:
        """The share of the target, in its first wording, that a model answers."""
        target, answers = self.exam.target, self.versions[role].sitting.answers
        return sum(answers[target.name, place].exact for place in range(len(target.records))) / len(target.records)

    def verdict(self, attack: str) -> Verdict:
        return worst(self.judgements[attack].values())

    def accuracy(self, kinds: tuple[str, ...], sitting: Sitting) -> float | None:
        """Exact match of all records of the groups of these kinds together, each group weighing what all of it would;
        None without any."""
        chosen = [part for part in parts(self.exam) if part.kind in kinds and not part.level]
        total = sum(part.group.of for part in chosen)
        right = sum(part.group.of * exact_match(part, sitting) for part in chosen)
        return right / total if total else None

    def _judged(self, attack: str) -> dict[str, Judgement]:
        def named(role: str) -> dict[str, Finding]:
            version = self.versions.get(role)
            return {} if version is None else {one.name: one for one in version.findings[attack]}

        base, gold = named("base"), named("gold")
        return {
            one.name: judge(one, base.get(one.name), gold.get(one.name))
            for one in self.versions["edited"].findings[attack]
        }
