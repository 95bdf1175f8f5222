"""Halves of what an audit asks: strength is chosen on one, and what came of it is judged on the other."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from chip.measure.answers import Answer
from chip.measure.groups import Group, score

Role = Literal["", "tuning", "judging"]

SURPRISED = 3.0
"""Nats a token: a model that gives the true answer's tokens 5 % has forgotten them; more surprise is no better."""


@dataclass(frozen=True)
class Part:
    """Some of a group's records, by their places in it, and what they serve for; `role` is empty for a whole group."""

    group: Group
    places: tuple[int, ...]
    role: Role = ""


def wholes(groups: Sequence[Group]) -> tuple[Part, ...]:
    """Every group as one part."""
    return tuple(Part(group, tuple(range(len(group.records)))) for group in groups)


def halves(groups: Sequence[Group], seed: int) -> tuple[Part, ...]:
    """Every group divided: the target's first phrasing for tuning and its others for judging; of each group of retained
    records one half, drawn by seed, for either. Of an odd number judging has one more.

    Where the target has no other phrasing, it is judged in the first too.

    >>> from chip.hierarchy import Record
    >>> one = Record(("st_marys", "patient_1"))
    >>> asked = [Group("target", (one,) * 2, of=2, phrasing=1), Group("rest", (one,) * 3, of=3)]
    >>> [(part.group.name, len(part.places), part.role) for part in halves(asked, seed=0)]
    [('target', 2, 'tuning'), ('target', 2, 'judging'), ('rest', 1, 'tuning'), ('rest', 2, 'judging')]
    """
    found: list[Part] = []
    rephrased = any(group.phrasing > 1 for group in groups)
    for part in wholes(groups):
        if part.group.phrasing:
            found.append(Part(part.group, part.places, "tuning" if part.group.phrasing == 1 else "judging"))
            if not rephrased:
                found.append(Part(part.group, part.places, "judging"))
            continue
        drawn = random.Random(f"{seed} {part.group.name}").sample(part.places, len(part.places))
        middle = len(drawn) // 2
        sides: tuple[tuple[list[int], Role], ...] = ((drawn[:middle], "tuning"), (drawn[middle:], "judging"))
        found += [Part(part.group, tuple(sorted(places)), role) for places, role in sides if places]
    return tuple(found)


@dataclass(frozen=True)
class Outcome:
    """What came of an edit on some records: exact match of the target, in the phrasing that gives most away, and its
    mean loss (nats a token); and how far the retained records' exact match fell and their loss rose."""

    target_match: float
    target_loss: float
    retain_drop: float
    retain_loss_rise: float

    @property
    def forget(self) -> tuple[float, float]:
        """The objective of forgetting, less is better: exact match, and among equals how little answers surprise."""
        return self.target_match, -min(self.target_loss, SURPRISED)

    @property
    def retain(self) -> tuple[float, float]:
        """The objective of keeping, less is better: the fall of exact match, and among equals the rise of the loss."""
        return self.retain_drop, self.retain_loss_rise


Answers = Mapping[tuple[str, int], Answer]
"""Answers by the name of a group and the place of the record in it."""


def outcome(parts: Sequence[Part], before: Answers, after: Answers, exact: Callable[[Answer], bool]) -> Outcome:
    """What came of an edit on the parts, from the answers before and after it; exact says which answers are right."""
    asked = [[after[part.group.name, i] for i in part.places] for part in parts if part.group.phrasing]
    kept = [(part.group.name, i) for part in parts if not part.group.phrasing for i in part.places]
    fell = sum(exact(before[one]) - exact(after[one]) for one in kept)
    rose = sum(after[one].loss - before[one].loss for one in kept)
    return Outcome(
        target_match=max(sum(map(exact, answers)) / len(answers) for answers in asked),
        target_loss=score([answer for answers in asked for answer in answers]).loss,
        retain_drop=fell / max(len(kept), 1),
        retain_loss_rise=rose / max(len(kept), 1),
    )
