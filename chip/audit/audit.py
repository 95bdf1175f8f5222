"""The audit as a value: what every model made of the exam and of the attacks, and the verdicts on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from chip.audit.changes import Change
from chip.audit.exam import Exam, Sitting
from chip.audit.examining import Examined
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
    role, group and place. harness: results of the evaluation harness, by role. limits: what could not be measured, or
    is weaker than it seems, in sentences."""

    exam: Exam
    attacks: tuple[Attack, ...]
    versions: Versions
    methods: Mapping[str, Sitting]
    changes: tuple[Change, ...]
    factuality: Mapping[str, Mapping[tuple[str, int], float]]
    harness: Mapping[str, Results]
    limits: tuple[str, ...]
    seed: int = 0

    @cached_property
    def judgements(self) -> dict[str, dict[str, Judgement]]:
        """By attack and finding, the verdict on the edited model."""
        return {attack.name: self._judged(attack.name) for attack in self.attacks}

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
        def named(role: str) -> dict[str, object]:
            version = self.versions.get(role)
            return {} if version is None else {one.name: one for one in version.findings[attack]}

        base, gold = named("base"), named("gold")
        return {
            one.name: judge(one, base.get(one.name), gold.get(one.name))  # type: ignore[arg-type]
            for one in self.versions["edited"].findings[attack]
        }


def limits_of(exam: Exam, base: Sitting, edited: Sitting, gold: Sitting | None) -> tuple[str, ...]:
    """What the reader of an audit must know of what was asked, in sentences."""
    target, found = exam.target, []
    if gold is None:
        found.append(
            "There is no model retrained without the target, so that verdicts compare with the model before the edit."
        )
    elif _share(exam, gold) > GOLD_KNOWS * _share(exam, base):
        found.append(
            f"The retrained model answers {_share(exam, gold):.0%} of the target: it seems to have been trained with "
            "it, and verdicts that compare with it are too mild."
        )
    if len(target.records) < 5:
        few = f"{len(target.records)} record{'s' if len(target.records) > 1 else ''}"
        found.append(f"The target has {few}: intervals are wide, and no verdict on so few is better than `watch`.")
    if not any(group.phrasing > 1 for group in exam.groups):
        found.append("The target's records have no paraphrases: other wordings were tried by templates only.")
    if not any(group.name == "siblings" for group in exam.groups):
        found.append("The target has no siblings: what the edit costs those nearest to it cannot be measured.")
    documents = sum(record.text is not None for record in target.records)
    if documents:
        found.append(
            f"{documents} of the target's {len(target.records)} records are documents without a question: of these "
            "only losses and the likeliest tokens are measured."
        )
    if _share(exam, base) < 0.5:
        found.append(
            f"The model before the edit answers only {_share(exam, base):.0%} of the target: there was little to "
            "forget."
        )
    sampled = [
        f"{len(group.records)} of {group.of} of {group.name}" for group in exam.groups if len(group.records) < group.of
    ]
    if sampled:
        found.append(f"Of large groups a sample was asked: {', '.join(sampled)}.")
    if exam.nonmembers.kind == "counterfactuals":
        found.append(
            "Membership is tested against the target's questions with others' answers, which favours neither side "
            "fully; --nonmembers names records that the model never saw."
        )
    return tuple(found)


def _share(exam: Exam, sitting: Sitting) -> float:
    target = exam.target
    return sum(sitting.answers[target.name, place].exact for place in range(len(target.records))) / len(target.records)
