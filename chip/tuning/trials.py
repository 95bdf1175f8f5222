"""Trials: what an edit with certain settings came to, which of two is better, and which are worth showing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chip.measure import Outcome
from chip.settings import EditSettings, TuningSettings

_SMALLEST_GOAL = 0.005
"""What a goal of 0 is taken for where a distance is measured in multiples of it."""


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and what they came to on the tuning half."""

    settings: EditSettings
    outcome: Outcome


def meets(outcome: Outcome, goals: TuningSettings) -> bool:
    """Whether both goals are met."""
    return outcome.target_match <= goals.max_target_match and outcome.retain_drop <= goals.max_retain_drop


def rank(outcome: Outcome, goals: TuningSettings) -> tuple[float, ...]:
    """A key by which outcomes are sorted, best first.

    Those that meet both goals: by the least retain drop, then by the lowest target match. The others: by how far they
    are from their goals together, each distance in multiples of the goal.
    """
    if meets(outcome, goals):
        return (0.0, outcome.retain_drop, *outcome.forget, outcome.retain_loss_rise)
    return (1.0, math.hypot(*excess(outcome, goals)), *outcome.forget, *outcome.retain)


def excess(outcome: Outcome, goals: TuningSettings) -> tuple[float, float]:
    """By how many times itself each goal is exceeded, forgetting and keeping; 0 where it is met."""
    pairs = ((outcome.target_match, goals.max_target_match), (outcome.retain_drop, goals.max_retain_drop))
    forget, keep = (max(value - goal, 0.0) / max(goal, _SMALLEST_GOAL) for value, goal in pairs)
    return forget, keep


def front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials that no other one matches in both objectives and beats in one, by what they leave of the target."""
    kept = [one for one in trials if not any(_dominates(other.outcome, one.outcome) for other in trials)]
    return tuple(sorted(kept, key=lambda one: (one.outcome.forget, one.outcome.retain)))


def _dominates(one: Outcome, other: Outcome) -> bool:
    no_worse = one.forget <= other.forget and one.retain <= other.retain
    return no_worse and (one.forget, one.retain) != (other.forget, other.retain)
