"""Parts of a total: summed in the form that the total has, an exact moment or a sketch, and taken off it again.

A request needs the moments of some records beside those of all: the target's, to take them off, and the comparison's.
Here alone is it decided what exact moments and sketches do with one another.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chip.collect.fitting import Notice
from chip.collect.gathering import collect
from chip.collect.sketch import FrequentDirections, Sketch, downdated, sketch_of
from chip.collect.statistics import Moments, PooledSums, SecondMoments, Statistics, Wanted
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.progress import Track, silent


def part_of(total: SecondMoments, rows: Tensor) -> SecondMoments:
    """The sums over rows (T, d) that belong to `total`, on the CPU: exact beside exact, a sketch beside a sketch."""
    if isinstance(total, Sketch):
        return sketch_of(rows.cpu().to(total.rows.dtype), _rows_beside(total))
    return Moments((rows.T @ rows).double().cpu(), rows.sum(0).double().cpu(), len(rows))


def collect_parts(
    loaded: LoadedModel,
    records: Sequence[Record],
    totals: Mapping[str, SecondMoments],
    *,
    batch_tokens: int,
    track: Track = silent,
    doing: str = "collecting statistics",
    notice: Notice = warnings.warn,
) -> Mapping[str, SecondMoments]:
    """Sums over the answer tokens of records that belong to `totals`, by site name, each in the form of its total."""
    sketched = {name: _rows_beside(total) for name, total in totals.items() if isinstance(total, Sketch)}
    wanted = Wanted(answer=tuple(totals))
    return collect(
        loaded, records, wanted, sketched=sketched, batch_tokens=batch_tokens, track=track, doing=doing, notice=notice
    ).answer


def without(total: SecondMoments, part: SecondMoments) -> SecondMoments:
    """What is left of a total without a part of it that was counted in it.

    Exact moments are subtracted. A sketch cannot be; the part is taken off it by a guarded downdate.
    """
    match total, part:
        case Moments(), Moments():
            return total - part
        case Sketch(), Sketch():
            return downdated(total, part)
    raise TypeError("an exact moment and a sketch cannot be taken off one another")


def _rows_beside(total: Sketch) -> int:
    """As many rows as the total's: where those hold all that the total spans, they hold all that a part of it does."""
    return max(len(total.rows), 1)


def added(first: Statistics, second: Statistics, sketched: Mapping[str, int]) -> Statistics:
    """The statistics of two sets of records together. Both hold the same sites; a sketch merges with a sketch, and
    `sketched` says how many rows the two may have together."""
    nodes = tuple(sorted({*first.nodes, *second.nodes}))
    numbers = {node: number for number, node in enumerate(nodes)}
    pooled = {}
    for name, sums in first.pooled.items():
        whole = PooledSums.zeros(len(nodes), sums.total.shape[1], sums.total.device)
        for one in (first, second):
            where = torch.tensor([numbers[node] for node in one.nodes])
            for part in ("total", "absolute", "count"):
                getattr(whole, part)[where] += getattr(one.pooled[name], part)
        pooled[name] = whole
    answer, image = (
        {name: _added(one, theirs[name], sketched.get(name, 1)) for name, one in mine.items()}
        for mine, theirs in ((first.answer, second.answer), (first.image, second.image))
    )
    return Statistics(nodes, first.alpha, pooled, answer, image)


def taken_off(whole: Statistics, part: Statistics) -> Statistics:
    """The statistics without those of some nodes, all of whose records were counted in both.

    `part` holds no pooled sums: those of its nodes are left out.
    """
    gone = set(part.nodes)
    left = [place for place, node in enumerate(whole.nodes) if node not in gone]
    pooled = {
        name: PooledSums(sums.total[left], sums.absolute[left], sums.count[left]) for name, sums in whole.pooled.items()
    }
    answer, image = (
        {name: without(total, theirs[name]) for name, total in mine.items()}
        for mine, theirs in ((whole.answer, part.answer), (whole.image, part.image))
    )
    return Statistics(tuple(whole.nodes[place] for place in left), whole.alpha, pooled, answer, image)


def sketched_rows(statistics: Statistics) -> dict[str, int]:
    """By site, the rows of those second moments that are sketches."""
    moments = {**statistics.answer, **statistics.image}
    return {name: _rows_beside(one) for name, one in moments.items() if isinstance(one, Sketch)}


def _added(first: SecondMoments, second: SecondMoments, rows: int) -> SecondMoments:
    match first, second:
        case Moments(), Moments():
            return first + second
        case Sketch(), Sketch():
            limit = max(rows, len(first.rows))
            both = FrequentDirections(first.rows.shape[1], limit, first.rows.dtype, first.rows.device)
            both.merge(first)
            both.merge(second)
            return both.sketch()
    raise TypeError("an exact moment and a sketch cannot be added up")
