"""What an attack gets back from a model, as a value: a score a record, an aggregate, and where there is one a curve.

Imports no torch; everything here can be written as JSON and read back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from chip.audit.intervals import Interval, mean_interval

Scale = Literal["share", "area", "trace", "caution", "release"]
"""What a finding's value is. `share`: of the target, how much comes back; a model that never saw it gives about
nothing. `area`: an area under the curve, 0.5 where members and others look alike; both sides of it leak. `trace`:
how well the target can be told from others, which it can in part by what is asked: only a retrained model says how
well is normal. `caution`: what there is for whoever has more than the release, or may be there by chance: worth a look
at most. `release`: what stands in the release for everybody to read: nothing may."""


@dataclass(frozen=True)
class Finding:
    """What one probe of an attack got back.

    value: between 0 and 1, on its scale; None where it could not be measured, and `why` then says why. scores: by
    record, its line in records.jsonl and what came back of it, 0 to 1 but for areas, where it is the attack's own
    score. curve: value by strength of the attack, (how much, value), in order; `axis` says how much of what. note: what
    the reader has to know. needs_gold: only a retrained model says what is normal, as of every trace.
    """

    name: str
    value: float | None
    interval: Interval | None = None
    scale: Scale = "share"
    scores: tuple[tuple[int, float], ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    axis: str = ""
    why: str = ""
    note: str = ""
    needs_gold: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Finding":
        interval = content["interval"]
        return cls(
            **{
                **content,
                "interval": None if interval is None else Interval(**interval),
                "scores": tuple((line, score) for line, score in content["scores"]),
                "curve": tuple((place, value) for place, value in content["curve"]),
            }
        )


def share(name: str, scores: Sequence[tuple[int, float]], *, seed: int = 0, why: str = "", **more: Any) -> Finding:
    """The finding whose value is the mean over its records' scores; `why` says why there are none, if so."""
    if not scores:
        return not_measured(name, why, **more)
    values = [score for _, score in scores]
    made = Finding(name, sum(values) / len(values), mean_interval(values, seed), scores=tuple(scores))
    return replace(made, **more)


def not_measured(name: str, why: str, **more: Any) -> Finding:
    """A probe that could not be made of this model or these records."""
    return Finding(name, None, why=why, **more)
