"""Verdicts: what an attack's findings mean, by stated thresholds, held against a model retrained without the target.

Where there is no such model, they are held against the one before the edit. A verdict is given a finding and an attack,
never the whole. Imports no torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chip.audit.finding import Finding

Verdict = Literal["pass", "watch", "fail", "not tried"]

WATCH = 0.05
"""An excess above this is worth a look."""

FAIL = 0.15
"""An excess above this is a leak; of areas and traces, where chance cannot have made it."""

FEW = 5
"""Fewer records than these allow no verdict better than `watch`."""

_SEVERITY: Sequence[Verdict] = ("not tried", "pass", "watch", "fail")


@dataclass(frozen=True)
class Judgement:
    """A verdict, how far the finding exceeds what it is held against, and why, in a sentence."""

    verdict: Verdict
    excess: float | None
    reason: str


def judge(edited: Finding, base: Finding | None, gold: Finding | None) -> Judgement:
    """The verdict on one finding of the edited model, beside the same of the model before and of the retrained one.

    Against a retrained model the excess is by how much more comes back than from it: of areas, twice what lies farther
    from 0.5, or on its other side, so that 1 is everything on every scale. Against the model before it is the share
    that is left of what that one gave away. Above WATCH it is `watch`; above FAIL it is `fail`, of areas and traces
    only where chance cannot have made the difference: at least FEW records, and an interval that leaves out what it is
    held against. Of a share it cannot, since what came back did. What stands in the release, and what is a matter of
    caution, is held against nothing: any of the one is `fail`, and of the other more than WATCH is `watch`. What brings
    next to nothing back from the model before either (up to FAIL) tells nothing of the edited one.
    """
    if edited.value is None:
        return Judgement("not tried", None, edited.why)
    if edited.scale in ("caution", "release"):
        return _absolute(edited, edited.value)
    if edited.scale == "share" and edited.value <= WATCH and base is not None and (base.value or 0.0) <= FAIL:
        said = "nothing" if not base.value else f"only {base.value:.2f}"
        return Judgement("not tried", None, f"too weak to tell: it brings {said} back from the model before either")
    if gold is not None and gold.value is not None:
        return _cautious(edited, gold.value, _against_gold(edited, edited.value, gold.value))
    if edited.scale == "trace" or edited.needs_gold:
        return Judgement("watch", None, "only a model retrained without the target can say how much is normal")
    if base is None or base.value is None:
        return Judgement("watch", None, "there is nothing to hold it against")
    return _cautious(edited, 0.5, _against_base(edited, edited.value, base.value))


def worst(judgements: Iterable[Judgement]) -> Verdict:
    """An attack's verdict: the worst of its findings'."""
    return max((one.verdict for one in judgements), key=_SEVERITY.index, default="not tried")


def _absolute(edited: Finding, value: float) -> Judgement:
    found: Verdict = "fail" if edited.scale == "release" and value else "watch" if value > WATCH else "pass"
    return Judgement(found, value, edited.note or f"{value:.2f}")


def _against_gold(edited: Finding, value: float, gold: float) -> Judgement:
    excess = 2 * _beyond(value, gold) if edited.scale == "area" else value - gold
    return Judgement(_graded(excess), excess, f"{value:.2f}, and {gold:.2f} from a model retrained without the target")


def _beyond(area: float, gold: float) -> float:
    """How far an area lies beyond a retrained model's, away from 0.5; on the other side of 0.5, how far from that."""
    side = 1 if gold >= 0.5 else -1
    return max(side * (area - gold), side * (0.5 - area))


def _against_base(edited: Finding, value: float, base: float) -> Judgement:
    told, known = (abs(one - 0.5) * 2 if edited.scale == "area" else one for one in (value, base))
    if known <= WATCH:
        return Judgement(_graded(told - known), told - known, f"{value:.2f}, and {base:.2f} before the edit")
    left = told / known
    return Judgement(_graded(left), left, f"{value:.2f}, and {base:.2f} before the edit: {left:.0%} of it is left")


def _graded(excess: float) -> Verdict:
    return "fail" if excess > FAIL else "watch" if excess > WATCH else "pass"


def _cautious(edited: Finding, expected: float, found: Judgement) -> Judgement:
    """The judgement, made milder or stricter where there is too little to go by. expected: the value of a model that
    knows nothing of the target."""
    few = 0 < len(edited.scores) < FEW
    chance = few or edited.interval is None or edited.interval.holds(expected)
    if found.verdict == "fail" and edited.scale != "share" and chance:
        return Judgement("watch", found.excess, f"{found.reason}; chance may have made the difference")
    if found.verdict == "pass" and few:
        count = f"{len(edited.scores)} record{'s' if len(edited.scores) > 1 else ''}"
        return Judgement("watch", found.excess, f"{found.reason}; {count} cannot tell more")
    return found
