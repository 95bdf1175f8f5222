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
"""An excess above this, and beyond chance, is a leak."""

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

    Against a retrained model the excess is by how much more comes back than from it: of areas, twice their distance,
    so that 1 is everything on every scale. Against the model before it is the share that is left of what that one gave
    away. Above WATCH it is `watch`; above FAIL it is `fail`, unless it is an area or a trace whose interval holds the
    retrained model's value, so that chance may have made the difference: of a share it cannot, since what came back
    did. What stands in the release, and what is a matter of caution, is
    held against nothing: any of the one is `fail`, and of the other more than WATCH is `watch`.
    """
    if edited.value is None:
        return Judgement("not tried", None, edited.why)
    if edited.scale in ("caution", "release"):
        return _absolute(edited, edited.value)
    if gold is not None and gold.value is not None:
        return _cautious(edited, _against_gold(edited, edited.value, gold.value))
    if edited.scale == "trace":
        return Judgement("watch", None, "only a model retrained without the target can say how much is normal")
    if base is None or base.value is None:
        return Judgement("watch", None, "there is nothing to hold it against")
    return _cautious(edited, _against_base(edited, edited.value, base.value))


def worst(judgements: Iterable[Judgement]) -> Verdict:
    """An attack's verdict: the worst of its findings'."""
    return max((one.verdict for one in judgements), key=_SEVERITY.index, default="not tried")


def _absolute(edited: Finding, value: float) -> Judgement:
    found: Verdict = "fail" if edited.scale == "release" and value else "watch" if value > WATCH else "pass"
    return Judgement(found, value, edited.note or f"{value:.2f}")


def _against_gold(edited: Finding, value: float, gold: float) -> Judgement:
    excess = 2 * abs(value - gold) if edited.scale == "area" else value - gold
    said = f"{value:.2f}, and {gold:.2f} from a model retrained without the target"
    if excess > FAIL and edited.scale != "share" and edited.interval is not None and edited.interval.holds(gold):
        return Judgement("watch", excess, f"{said}: chance may have made the difference")
    return Judgement(_graded(excess), excess, said)


def _against_base(edited: Finding, value: float, base: float) -> Judgement:
    told, known = (abs(one - 0.5) * 2 if edited.scale == "area" else one for one in (value, base))
    if known <= WATCH:
        return Judgement(_graded(told - known), told - known, f"{value:.2f}, and {base:.2f} before the edit")
    left = told / known
    return Judgement(_graded(left), left, f"{value:.2f}, and {base:.2f} before the edit: {left:.0%} of it is left")


def _graded(excess: float) -> Verdict:
    return "fail" if excess > FAIL else "watch" if excess > WATCH else "pass"


def _cautious(edited: Finding, found: Judgement) -> Judgement:
    if found.verdict == "pass" and 0 < len(edited.scores) < FEW:
        count = f"{len(edited.scores)} record{'s' if len(edited.scores) > 1 else ''}"
        return Judgement("watch", found.excess, f"{found.reason}; {count} cannot tell more")
    return found
