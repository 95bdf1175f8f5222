"""Both projections on numbers small enough to be checked by hand: their thresholds, ranks, budgets and bounds."""

from dataclasses import replace

import pytest
import torch
from drawing import EPS, drawn, near, sums
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from chip.collect.statistics import PooledSums
from chip.solve import oblique, orthogonal
from chip.solve.metric import DenseMetric, LowRankMetric
from chip.solve.oblique import Solution


class TestOrthogonal:
    nodes = (("i0", "p0"), ("i0", "p1"))

    def rows(self, part: Tensor, comparison: Tensor) -> Tensor:
        means = torch.stack([part, comparison])
        sums = PooledSums(means * 2, means.abs() * 2, torch.tensor([2, 2]))
        return orthogonal.directions(sums, self.nodes, [("i0", "p0")], torch.arange(len(part)))

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
    def test_a_difference_is_a_direction_above_1e_5_of_the_two_norms_together(self, scale: float) -> None:
        one = torch.tensor([scale, 0.0], dtype=torch.float64)
        for times, count in ((1.9e-5, 0), (2.1e-5, 1)):
            found = self.rows(one, one + torch.tensor([0.0, times * scale]))
            assert found.shape == (count, 2)
            assert found.dtype == torch.float64
        assert len(self.rows(torch.zeros(2), torch.zeros(2))) == 0

    def test_what_nothing_retained_reaches_is_left_alone(self) -> None:
        means = drawn(0, 2, 6)
        for count in ([2, 0], [0, 2]):
            here = torch.tensor(count)
            sums = PooledSums(means * here[:, None], means.abs() * here[:, None], here)
            inside = torch.tensor([True, False])
            assert orthogonal._neurons(sums, sums.absolute.sum(0), inside, 50) is None
            assert orthogonal.solve_site(sums, self.nodes, [("i0", "p0")], 50, 0.95) is None

    def test_the_neurons_are_those_that_the_target_raises_above_what_is_retained(self) -> None:
        """At every site, also behind one that the target does not reach; the third node reaches none."""
        nodes, counts = (*self.nodes, ("i1", "p0")), torch.tensor([3, 2, 0])
        means = drawn(0, 3, 2, 40) + torch.linspace(0, 5, 40)
        pooled = {
            name: PooledSums(one * counts[:, None], one.abs() * counts[:, None], counts)
            for name, one in (("first", means[:, 0]), ("last", means[:, 1]))
        }
        blind = PooledSums(means[:, 0], means[:, 0].abs(), torch.tensor([0, 2, 0]))
        found = orthogonal.solve_requests({"blind": blind, **pooled}, nodes, [[("i0", "p0")]], 25, 0.95)[0]
        assert found["blind"] is None
        for number, name in enumerate(pooled):
            one, expected = found[name], orthogonal.select_neurons(*means[:2, number].abs(), 25)
            assert one is not None
            assert one.neurons.tolist() == expected.tolist()

    def test_of_many_neurons_that_are_alike_the_lower_are_chosen(self) -> None:
        """Sorting keeps the order of a few equals by itself, and of more than sixteen only where it is told to."""
        values = (torch.arange(200) * 7919 % 5).double()
        chosen = orthogonal.select_neurons(values, torch.zeros(200), 30)
        assert chosen.tolist() == sorted(range(200), key=lambda one: (-float(values[one]), one))[:60]

    def test_a_call_takes_the_numbers_of_its_stacks_filled_up(self) -> None:
        alike = [orthogonal._Stack(0, "", torch.arange(5), drawn(n, n, 5)) for n in (2, 7, 3)]
        assert orthogonal._numbers(alike) == pad_sequence([one.rows for one in alike], batch_first=True).numel()

    def test_the_smallest_rank_with_the_share_of_the_variance_is_kept(self) -> None:
        """Two parts at a right angle to one another hold half of the variance each: half is one, a little more two."""
        nodes = (("i0", "p0", "s0"), ("i0", "p0", "s1"), ("i0", "p1", "s0"))
        means = torch.eye(3, 4, dtype=torch.float64)
        means[2] = 0
        sums = PooledSums(means, means.abs(), torch.tensor([1, 1, 1]))
        for variance, rank in ((0.49, 1), (0.51, 2), (1.0, 2)):
            found = orthogonal.solve_site(sums, nodes, [("i0", "p0")], 100, variance)
            assert found is not None
            assert len(found.basis) == rank
            left, right = found.factors(drawn(0, 4, 3).float())
            assert left.dtype == right.dtype == torch.float64


class TestOblique:
    weight, keys, aims = drawn(0, 5, 8), drawn(1, 3, 8), drawn(2, 3, 5)

    def solved(self, **values: object) -> Solution:
        how = {"strength": 2.0, "budget": None, "metric": LowRankMetric(drawn(3, 4, 8), 0.2, 0.05, 0.7), **values}
        one = how.pop("metric")
        return oblique.solve_site(self.weight, self.keys, self.aims, one, **how)  # type: ignore[arg-type]

    def test_distortion_and_uncertainty_are_shares_of_what_the_weight_puts_out(self) -> None:
        rows, found = drawn(3, 4, 8), self.solved()
        moment = rows.T @ rows + 0.2 * torch.eye(8).double()
        whole = (self.weight @ moment @ self.weight.T).trace()
        assert found.distortion == pytest.approx(float((found.delta @ moment @ found.delta.T).trace() / whole))
        assert found.uncertainty == pytest.approx(0.7 * float(found.delta.square().sum() / whole))
        assert found.strength == 2.0
        assert self.solved(metric=DenseMetric(moment, 0.05)).uncertainty == 0

    @pytest.mark.parametrize(
        ("times", "factor"), [(0.5, 1.0), (1.0, 1.0), (2.25, 1.5), (4.0, 2.0), (9.0, 3.0), (16.0, 3.0)]
    )
    def test_enlarging_attains_the_budget_between_one_and_three_times(self, times: float, factor: float) -> None:
        found = self.solved()
        larger = found.enlarged(times * found.distortion)
        near(larger.delta, factor * found.delta)
        assert found.keys is not None
        assert larger.keys is not None
        near(larger.keys, factor * found.keys)
        assert larger.distortion == pytest.approx(factor**2 * found.distortion)
        assert larger.uncertainty == pytest.approx(factor**2 * found.uncertainty)
        dense = replace(found, left=found.delta, right=None, keys=None).enlarged(times * found.distortion)
        assert dense.keys is None
        near(dense.delta, factor * found.delta)

    def test_a_change_that_distorts_nothing_is_not_enlarged(self) -> None:
        found = replace(self.solved(), distortion=0.0)
        assert torch.equal(found.enlarged(1.0).left, found.left)

    def test_factors_that_take_more_than_the_limit_are_kept_dense(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of full rank alone, 5 here: the keys and the basis take 2 · r · (D + d) numbers."""
        given = self.weight, drawn(4, 6, 8), drawn(5, 6, 5), DenseMetric(sums(drawn(6, 20, 8)).second_moment, 0.05)
        for limit, dense in ((2 * 6 * 13, False), (2 * 6 * 13 - 1, True)):
            monkeypatch.setattr(oblique, "_MOST_NUMBERS", limit)
            found = oblique.solve_site(*given, strength=1.0, budget=None)
            assert (found.right is None) is (found.keys is None) is dense
            assert found.distortion > 0
            assert found.strength == 1.0
        monkeypatch.setattr(oblique, "_MOST_NUMBERS", 0)
        assert self.solved().keys is not None
        assert (
            oblique.solve_site(given[0], *(one[:5] for one in given[1:3]), given[3], strength=1.0, budget=None).keys
            is None
        )

    def test_kept_dense_it_is_as_uncertain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = drawn(1, 6, 8), drawn(2, 6, 5), LowRankMetric(drawn(3, 4, 8), 0.2, 0.05, 0.7)
        factored = oblique.solve_site(self.weight, *given, strength=2.0, budget=None)
        monkeypatch.setattr(oblique, "_MOST_NUMBERS", 0)
        dense = oblique.solve_site(self.weight, *given, strength=2.0, budget=None)
        assert dense.right is None
        near(dense.delta, factored.delta)
        assert dense.uncertainty == factored.uncertainty > 0

    @pytest.mark.parametrize("count", [3, 8, 12])
    def test_on_other_weights_it_gains_what_they_give_otherwise_for_its_keys(self, count: int) -> None:
        other, keys, aims = drawn(7, 5, 8), drawn(1, count, 8), drawn(2, count, 5)
        metric = DenseMetric(sums(drawn(6, 20, 8)).second_moment, 0.05)
        here, there = (
            oblique.solve_site(w, keys, aims, metric, strength=2.0, budget=None) for w in (self.weight, other)
        )
        assert here.keys is not None
        assert here.right is not None
        near(here.delta + (self.weight - other) @ here.keys.T @ here.right, there.delta)

    def test_keys_that_are_nothing_have_no_direction(self) -> None:
        found = oblique.solve_site(
            self.weight, 0 * self.keys, self.aims, DenseMetric(torch.eye(8).double(), 0.05), strength=2.0, budget=None
        )
        assert found.left.shape == (5, 0)

    def test_what_is_below_rounding_is_no_direction(self) -> None:
        values = torch.tensor([1.0, 10 * EPS, EPS], dtype=torch.float64)
        for scale in (2.0**-20, 1.0, 2.0**20):
            found, vectors = oblique._spectrum(torch.diag(values * scale))
            assert sorted((found / scale).tolist()) == [10 * EPS, 1.0]
            assert vectors.shape == (3, 2)
        lopsided = torch.tensor([[2.0, 2.0], [0.0, 2.0]], dtype=torch.float64)
        assert oblique._spectrum(lopsided)[0].tolist() == pytest.approx([1.0, 3.0])

    @pytest.mark.parametrize(
        ("budget", "strength"), [(3.0, 3.0), (1e-3, 1e-3), (1e12, 1e12), (1e13, 1e12), (9e11, 9e11), (1e-9, 1e-8)]
    )
    def test_the_largest_strength_within_a_budget_is_found_to_the_last_digits(
        self, budget: float, strength: float
    ) -> None:
        found = oblique._largest_within(lambda beta: beta, budget)
        assert found == pytest.approx(strength, rel=1e-12)
        assert found <= max(budget, 1e-8)
        assert budget < 1e12 or found == 1e12
