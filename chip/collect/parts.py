"""Parts of a total: summed in the form that the total has, an exact moment or a sketch, and taken off it again.

A request needs the moments of some records beside those of all: the target's, to take them off, and the comparison's.
Here alone is it decided what exact moments and sketches do with one another.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chip.collect.collector import collect
from chip.collect.keys import answer_inputs
from chip.collect.passes import in_batches
from chip.collect.sketch import FrequentDirections, Sketch, downdated, sketch_of
from chip.collect.statistics import Moments, SecondMoments, Wanted, accumulator_dtype
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
    batch_size: int,
    track: Track = silent,
    doing: str = "collecting statistics",
) -> dict[str, SecondMoments]:
    """Sums over the answer tokens of records that belong to `totals`, by site name, each in the form of its total."""
    sketches = {
        name: FrequentDirections(
            total.rows.shape[1], _rows_beside(total), accumulator_dtype(loaded.device), loaded.device
        )
        for name, total in totals.items()
        if isinstance(total, Sketch)
    }
    exact = tuple(name for name in totals if name not in sketches)
    found: dict[str, SecondMoments] = {}
    if exact:
        wanted = Wanted(answer=exact)
        found |= collect(loaded, records, wanted, batch_size=batch_size, track=track, doing=doing).answer
    if sketches:
        sites = [site for site in loaded.sites if site.name in sketches]
        for group in track(in_batches(records, batch_size), doing):
            encoded = [loaded.prompts.encode(record) for record in group]
            for name, rows in answer_inputs(loaded, encoded, sites, batch_size).items():
                sketches[name].add(rows)
        found |= {name: one.sketch().to(torch.device("cpu")) for name, one in sketches.items()}
    return found


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
