"""The metrics of DuoLearn's paper (Zhang et al., arXiv 2511.19498), as functions of answers. Imports no torch.

The paper's definitions are not public beyond their names and what its abstract says of them; each function says which
part is ours. A metric that is not defined on what it is given is None, never 0 or 1.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from chip.hierarchy import Record

KEPT_LEVELS = (1, 2, 3)
FORGOTTEN_LEVEL = 4


class Judged(NamedTuple):
    """A record, whether its answer is right, the text that was generated, and how many records it stands for."""

    record: Record
    right: bool
    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Tokens:
    """How many answer tokens there are, and how many of them are the likeliest; each weighted as its record is."""

    right: float = 0.0
    count: float = 0.0

    @property
    def accuracy(self) -> float | None:
        return self.right / self.count if self.count else None


def accuracy(judged: Sequence[Judged]) -> float | None:
    """Share of right answers; None without any."""
    total = sum(one.weight for one in judged)
    return sum(one.weight for one in judged if one.right) / total if total else None


def forgetting_rate(target: Sequence[Judged]) -> float | None:
    """FR: 1 − accuracy on the target. That accuracy means exact match is ours."""
    right = accuracy(target)
    return None if right is None else 1 - right


def knowledge_preservation(before: Sequence[Judged], after: Sequence[Judged]) -> float | None:
    """KPR: accuracy after ÷ before on the retained records; above 1 where more is right than was. That it is a ratio,
    and that accuracy means exact match, is ours. None where nothing was right before."""
    was, now = accuracy(before), accuracy(after)
    return now / was if was and now is not None else None


def attack_auc(members: Sequence[float], nonmembers: Sequence[float]) -> float | None:
    """Area under the curve of the loss attack (Yeom et al. 2018, arXiv 1709.01604): the probability that a member's
    loss is below a non-member's, ties counting half. None where either is empty."""
    if not members or not nonmembers:
        return None
    others = sorted(nonmembers)
    above = sum(len(others) - (bisect_left(others, one) + bisect_right(others, one)) / 2 for one in members)
    return above / (len(members) * len(others))


def mia_resistance(members: Sequence[float], nonmembers: Sequence[float]) -> float | None:
    """1 − 2·|AUC − 0.5|: 1 where losses tell members from non-members no better than a coin, 0 where they tell them
    apart always, be it because members are still known or because they are shunned. The formula and the attack are
    ours."""
    area = attack_auc(members, nonmembers)
    return None if area is None else 1 - 2 * abs(area - 0.5)


def level_scores(before: Mapping[int, Tokens], after: Mapping[int, Tokens]) -> dict[int, float]:
    """By level of the concept hierarchy, what HMTA is the mean of; levels without a score are left out.

    Of levels 1 to 3, over the retained answers: token accuracy after ÷ before, at most 1. Of level 4, over the target's
    answers: 1 − token accuracy after.
    """
    found = {}
    for level in KEPT_LEVELS:
        was, now = (tokens.get(level, Tokens()).accuracy for tokens in (before, after))
        if was and now is not None:
            found[level] = min(now / was, 1.0)
    own = after.get(FORGOTTEN_LEVEL, Tokens()).accuracy
    return found if own is None else {**found, FORGOTTEN_LEVEL: 1 - own}


def hmta(scores: Mapping[int, float]) -> float | None:
    """The mean over the four levels' scores; None where one of them is missing. That the metric goes by the four levels
    is the paper's; token accuracy with teacher forcing, the ratio and the mean are ours."""
    return fmean(scores.values()) if {*KEPT_LEVELS, FORGOTTEN_LEVEL} == scores.keys() else None


def chance_corrected_forgetting(target: Sequence[Judged]) -> float | None:
    """(1 − accuracy) ÷ (1 − chance) over the records with options, chance being the mean of 1 ÷ their number: 1 where
    the target is answered as well as by guessing, above 1 where worse. Ours. None where none has options."""
    choices = [one for one in target if one.record.options]
    right = accuracy(choices)
    if right is None:
        return None
    total = sum(one.weight for one in choices)
    chance = sum(one.weight / len(one.record.options) for one in choices) / total
    return (1 - right) / (1 - chance)


def invalid_share(judged: Sequence[Judged]) -> float | None:
    """Share of answers that are none of the options or, of records without options, empty. Ours. None where no answer
    was generated: plain documents have none."""
    asked = [one for one in judged if one.record.text is None]
    total = sum(one.weight for one in asked)
    return sum(one.weight for one in asked if is_invalid(one.record, one.text)) / total if total else None


def is_invalid(record: Record, text: str) -> bool:
    """Whether a generated text is no answer to the record's question; white space is joined."""
    said = " ".join(text.split())
    return said not in {" ".join(one.split()) for one in record.options} if record.options else not said


@dataclass(frozen=True)
class Measured:
    """A metric before and after; None where it is not measured or, before, means nothing; `why` says why, if it is not
    measured."""

    before: float | None
    after: float | None
    why: str = ""


@dataclass(frozen=True)
class Metrics:
    """What `chip audit` adds to its table. level_scores: those that hmta is the mean of, by level. nonmembers: what
    mia_resistance holds against the target, `counterfactuals` or `strangers` (`chip.audit.nonmembers`)."""

    forgetting_rate: Measured
    chance_corrected_forgetting: Measured
    knowledge_preservation: Measured
    mia_resistance: Measured
    hmta: Measured
    invalid_target: Measured
    invalid_retained: Measured
    level_scores: Mapping[int, float]
    nonmembers: str
