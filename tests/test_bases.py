"""Shared factorisations: what a request adds and takes is corrected for, and the change is what its own would give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chip.collect import Moments
from chip.solve import oblique, retained
from chip.solve.bases import MetricBases, SharedMetric
from chip.solve.metric import DenseMetric
from chip.solve.retained import Retained, metric_of

SEEDS = st.integers(0, 2**31)
PLENTY = 2**30


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sums(rows: Tensor) -> Moments:
    return Moments(rows.T @ rows, rows.sum(0), len(rows))


def request(seed: int, inputs: int, target: int, compared: int | None, falling: float = 1.0) -> Retained:
    """A site whose total holds the target's rows, those of the comparison, and others."""
    size = target + (compared or 0) + 2 * inputs
    rows = drawn(seed, size, inputs) / torch.arange(1, inputs + 1) ** falling
    comparison = None if compared is None else rows[target : target + compared]
    return Retained("site", sums(rows), rows[:target], comparison)


def both(one: Retained, weight: float, ridge: float, like: Tensor) -> tuple[DenseMetric, SharedMetric]:
    """The metric by a factor of its own, and on a shared base however small it is."""
    direct = metric_of(one, 1, weight, ridge, like)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retained, "shared_is_cheaper", lambda *_: True)
        shared = metric_of(one, 1, weight, ridge, like, MetricBases(PLENTY))
    assert isinstance(direct, DenseMetric)
    assert isinstance(shared, SharedMetric)
    return direct, shared


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


class TestSharedMetric:
    @given(
        SEEDS,
        st.integers(2, 40),
        st.integers(0, 12),
        st.sampled_from([None, 1, 5, 30]),
        st.sampled_from([0.0, 0.5, 1.0, 10.0]),
        st.sampled_from([1e-4, 0.01, 1.0]),
    )
    def test_it_answers_as_a_factor_of_its_own(
        self, seed: int, inputs: int, target: int, compared: int | None, weight: float, ridge: float
    ) -> None:
        one = request(seed, inputs, target, compared)
        direct, shared = both(one, weight, ridge, drawn(0, 1))
        columns, rows = drawn(seed + 1, inputs, 3), drawn(seed + 2, 4, inputs)
        assert apart(shared.solve(columns), direct.solve(columns)) <= 1e-8
        assert apart(shared.moment_of(columns), direct.moment_of(columns)) <= 1e-9
        assert apart(shared.energy(rows), direct.energy(rows)) <= 1e-9
        white = shared.whiten(columns)
        assert apart(white.T @ white, columns.T @ direct.solve(columns)) <= 1e-8
        assert apart(shared.unwhiten(white), direct.solve(columns)) <= 1e-8

    @given(SEEDS, st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([1e-3, 0.01]))
    def test_the_change_is_the_same(self, seed: int, falling: float, ridge: float) -> None:
        one = request(seed, 60, 8, 20, falling)
        weight, keys, aims = drawn(seed + 1, 7, 60), one.target + 0.1 * drawn(seed + 2, 8, 60), drawn(seed + 3, 8, 7)
        first, second = (
            oblique.solve_site(weight, keys, aims, metric, strength=1.0, budget=None)
            for metric in both(one, 1.0, ridge, weight)
        )
        assert apart(second.delta, first.delta) <= 1e-8
        assert second.distortion == pytest.approx(first.distortion, rel=1e-7)
