"""A memory budget for second moments: which sites are kept exactly, and how many rows sketch each of the others.

Pure arithmetic over widths, so that a plan can say what a pass will take before anything is loaded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chip.errors import ChipError

FEWEST_ROWS = 64
"""With fewer a sketch says too little of a site for an edit to be worth making (docs/mathematics.md)."""

MOST_ROWS = 1024
"""Beyond it a sketch takes longer to keep than the exact moment does: its eigenvectors take (2ℓ)³ a shrink."""


@dataclass(frozen=True)
class MemoryPlan:
    """What is kept at each site, in the order of the widths given: None for the exact moment, or the sketch's rows ℓ.

    cost is in bytes, of the sums alone: d² + d numbers exactly, 2ℓd + d for a sketch.
    """

    rows: tuple[int | None, ...]
    cost: int

    @property
    def described(self) -> str:
        """One line for the plan."""
        sketched = [rows for rows in self.rows if rows is not None]
        exact = len(self.rows) - len(sketched)
        parts = [f"{exact} site{'s' * (exact != 1)} exact"] if exact or not sketched else []
        parts += [f"{len(sketched)} sketched with {max(sketched)} rows"] if sketched else []
        return f"{', '.join(parts)}, {in_words(self.cost)}"


def plan_memory(widths: Sequence[int], budget: int | None, dtype: torch.dtype) -> MemoryPlan:
    """Fit the second moments of sites with these numbers of inputs into `budget` bytes; None is no limit.

    Where they do not all fit, every site gets the same ℓ, the largest multiple of `FEWEST_ROWS` that fits, and a site
    of at most 2ℓ inputs is exact, since that costs no more: so the widest are sketched first, and no site is sketched
    coarsely for another's sake. What is left over, most of all where ℓ reaches `MOST_ROWS`, makes the narrowest
    sketched sites exact.
    Raises ChipError where not even `FEWEST_ROWS` rows fit.
    """
    size = torch.empty(0, dtype=dtype).element_size()

    def cost(width: int, rows: int | None) -> int:
        return size * width * ((width if rows is None else 2 * rows) + 1)

    def planned(limit: int) -> list[int | None]:
        return [limit if width > 2 * limit else None for width in widths]

    def whole(rows: Sequence[int | None]) -> int:
        return sum(map(cost, widths, rows))

    exact: list[int | None] = [None] * len(widths)
    if budget is None or whole(exact) <= budget:
        return MemoryPlan(tuple(exact), whole(exact))
    # In steps, so that a little more or less of free memory chooses alike.
    fitting = [limit for limit in range(FEWEST_ROWS, MOST_ROWS + 1, FEWEST_ROWS) if whole(planned(limit)) <= budget]
    if not fitting:
        least = whole(planned(FEWEST_ROWS))
        raise ChipError(
            f"--statistics-memory {in_words(budget)} is too little: the second moments of {len(widths)} sites take "
            f"{in_words(whole(exact))} exactly, and {in_words(least)} as sketches of {FEWEST_ROWS} rows; "
            f"give --statistics-memory {math.ceil(least / 2**30 * 1e4) / 1e4:g} or more"
        )
    rows = planned(fitting[-1])
    for site in sorted(range(len(widths)), key=lambda one: widths[one]):
        trial = [*rows[:site], None, *rows[site + 1 :]]
        if whole(trial) <= budget:
            rows = trial
    return MemoryPlan(tuple(rows), whole(rows))


def in_words(size: int) -> str:
    """A number of bytes, such as `3.2 GiB`."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
