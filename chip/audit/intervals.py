"""How sure a number is: 95 % intervals by the bootstrap over records, the same for the same seed. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 2000

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Where a number lies with 95 % confidence, both ends included."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` records and its interval; None where so few records allow none."""

    value: float
    interval: Interval | None
    count: int


def estimate(values: Sequence[float], seed: int = 0, *, share: bool = True) -> Estimate | None:
    """The mean of one number a record, with the interval of `mean_interval`; None without any."""
    if not values:
        return None
    return Estimate(float(np.mean(values)), mean_interval(values, seed, share=share), len(values))


def mean_interval(values: Sequence[float], seed: int = 0, *, share: bool = True) -> Interval | None:
    """Of the mean of one number a record: percentile bootstrap (Efron 1979), resampling the records.

    share: the numbers lie between 0 and 1. Where all records then agree on 0 or on 1 the bootstrap has no width, which
    says nothing: the exact interval (Clopper and Pearson 1934) stands there instead. Of another single number, and of
    none, there is no interval.
    """
    found = np.asarray(values, float)
    if share and found.size and np.all(found == found[0]) and found[0] in (0.0, 1.0):
        least = ((1 - LEVEL) / 2) ** (1 / found.size)
        return Interval(0.0, 1 - least) if found[0] == 0.0 else Interval(least, 1.0)
    if found.size < 2:
        return None
    return _percentiles(_resampled(found, np.random.default_rng(seed)).mean(axis=1))


def auc_interval(members: Sequence[float], others: Sequence[float], seed: int = 0) -> Interval | None:
    """Of the probability that a member's score lies above another's, ties counting half: bootstrap over both sides.

    None where either has fewer than two.
    """
    ours, theirs = np.asarray(members, float), np.asarray(others, float)
    return pairs_interval((ours[:, None] > theirs[None, :]) + 0.5 * (ours[:, None] == theirs[None, :]), seed)


def pairs_interval(above: Numbers, seed: int = 0) -> Interval | None:
    """The same where each pair is compared by itself: above (M, O) is 1 where the member's score lies above the
    other's, 0.5 in a tie, and 0 else."""
    if min(above.shape) < 2:
        return None
    draw = np.random.default_rng(seed)
    # Each pair is compared once; a resample then weighs rows and columns.
    rows, columns = (_counts(size, draw) for size in above.shape)
    return _percentiles(np.einsum("ri,ij,rj->r", rows, above, columns, optimize=True) / above.size)


def _resampled(values: Numbers, draw: np.random.Generator) -> Numbers:
    return values[draw.integers(values.size, size=(RESAMPLES, values.size))]


def _counts(size: int, draw: np.random.Generator) -> Numbers:
    """How often each of `size` records stands in each resample, (RESAMPLES, size)."""
    return draw.multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(float)


def _percentiles(found: Numbers) -> Interval:
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
