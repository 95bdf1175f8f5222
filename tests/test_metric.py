"""Metrics, shared ones too, against formulas in float64: thresholds, shares, bounds and dtypes as they are stated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawing import EPS, drawn, near, ridged, sums
from torch import Tensor

from chip.collect import Moments
from chip.collect.sketch import sketch_of
from chip.errors import ChipError
from chip.solve import bases, metric
from chip.solve.bases import MetricBases
from chip.solve.metric import DenseMetric, LowRankMetric
from chip.solve.retained import Retained, metric_of, shared_is_cheaper


class TestMetric:
    moment = sums(drawn(0, 30, 6)).second_moment
    low = LowRankMetric(drawn(1, 3, 6), 0.2, 0.05, error=0.3)

    def check(self, found: DenseMetric | LowRankMetric, moment: Tensor, ridge: float) -> None:
        whole, columns = ridged(moment, ridge), drawn(2, 6, 4)
        near(found.solve(whole @ columns), columns)
        near(found.whiten(whole @ found.unwhiten(columns)), columns)
        near(found.moment_of(columns), columns.T @ moment @ columns)
        near(found.energy(columns.T), (columns.T @ moment @ columns).trace())

    def test_a_dense_one_is_the_moment_and_a_ridge_in_proportion_to_its_trace(self) -> None:
        kept = self.moment.clone()
        for ridge in (0.0, 0.05, 3.0):
            found = DenseMetric(self.moment, ridge)
            self.check(found, self.moment, ridge)
            assert found.error == 0
        assert torch.equal(self.moment, kept)

    def test_a_low_rank_one_is_its_rows_a_level_and_a_ridge(self) -> None:
        rows = drawn(1, 3, 6)
        self.check(self.low, rows.T @ rows + 0.2 * torch.eye(6).double(), 0.05)
        assert self.low.error == 0.3
        root = self.low.whiten(torch.eye(6).double())
        near(root, root.T)
        assert (torch.linalg.eigvalsh(root) > 0).all()
        assert LowRankMetric(rows, 0.2, 0.05).error == 0

    def test_rows_that_repeat_or_are_nothing_add_no_direction(self) -> None:
        rows = torch.cat([drawn(1, 2, 6), drawn(1, 2, 6), torch.zeros(1, 6).double()])
        self.check(LowRankMetric(rows, 0.0, 0.05), rows.T @ rows, 0.05)

    def test_rows_that_span_all_inputs_need_neither_level_nor_ridge(self) -> None:
        rows = drawn(1, 8, 6)
        self.check(LowRankMetric(rows, 0.0, 0.0), rows.T @ rows, 0.0)
        with pytest.raises(ChipError, match="the metric is singular"):
            LowRankMetric(rows[:5], 0.0, 0.0)
        self.check(LowRankMetric(rows[:5], 0.3, 0.0), rows[:5].T @ rows[:5] + 0.3 * torch.eye(6).double(), 0.0)

    @pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**20])
    def test_what_an_input_adds_to_the_others_is_no_rounding_noise(self, scale: float) -> None:
        """The pivot of the second input is what is left of it: 1 and 4 units of rounding."""
        for units, singular in ((1, True), (4, False)):
            matrix = scale * torch.tensor([[1.0, 1.0], [1.0, 1.0 + units * EPS]], dtype=torch.float64)
            if singular:
                with pytest.raises(ChipError, match="the metric is singular"):
                    metric.cholesky(matrix)
            else:
                factor = metric.cholesky(matrix.clone())
                near(factor @ factor.T, matrix)
                assert torch.equal(factor.triu(1), torch.zeros(2, 2).double())
            almost = 1.0 - EPS / 2  # which leaves one unit to the last digit
            with pytest.raises(ChipError, match="the metric is singular"):
                metric.cholesky(scale * torch.tensor([[1.0, almost], [almost, 1.0]], dtype=torch.float64))
        with pytest.raises(ChipError, match="the metric is singular"):
            metric.cholesky(-torch.eye(2))

    def test_in_32_bits_the_moment_stays_in_64_and_is_refined_with(self) -> None:
        """Of a condition of a thousand, so that 32 bits alone are off by many times the rounding of the answer."""
        axes, like = torch.linalg.qr(drawn(0, 24, 24))[0], torch.zeros((), dtype=torch.float32)
        moment, columns = axes * torch.logspace(0, -6, 24).double() @ axes.T, drawn(1, 24, 3).float()
        found = DenseMetric(moment, 5e-3, like)
        assert found.moment.dtype == torch.float64
        exact = torch.linalg.solve(ridged(moment, 5e-3), columns.double()).float()
        near(found.solve(columns), exact, 1e-7)
        assert float((found._solve(columns) - exact).norm()) > 5e-7 * float(exact.norm())
        assert found.whiten(columns).dtype == torch.float32

    def test_held_is_a_copy_where_it_is_asked_for_and_else_the_same(self) -> None:
        for dtype in (torch.float64, torch.float32):
            moment = torch.eye(3, dtype=dtype)
            assert metric.held(moment, moment.float()) is moment
            copied = metric.held(moment, moment.float(), copy=True)
            assert copied.dtype == dtype
            assert copied.data_ptr() != moment.data_ptr()
            assert metric.held(moment, torch.empty(3, device="meta")).device.type == "meta"

    def test_a_product_in_another_dtype_is_done_by_blocks_of_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metric, "_ROWS_AT_ONCE", 4)
        columns = drawn(1, 6, 2)
        near(metric.product(self.moment, columns), self.moment @ columns)
        near(metric.product(self.moment, columns.float()), (self.moment @ columns).float(), 1e-6)

    @pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
    def test_a_sketched_one_adds_shares_of_rows_levels_and_errors(self, weight: float) -> None:
        retain, comparison = (sketch_of(drawn(n, 40, 8), 4) for n in (0, 1))
        like = torch.zeros((), dtype=torch.float64)
        found = metric.weighted_metric(retain, comparison, weight, 0.05, like)
        both = [(retain, 1.0), (comparison, weight)]
        moment = torch.zeros(8, 8).double()
        for one, share in both:
            rows, level = one.completed
            moment += share / 40 * (rows.T @ rows + level * torch.eye(8).double())
        columns = drawn(2, 8, 3)
        near(found.solve(ridged(moment, 0.05) @ columns), columns)
        assert found.error == pytest.approx(sum(share / 40 * one.error for one, share in both))
        assert retain.error > 0
        once_more = metric.weighted_metric(retain, retain, weight, 0.05, like)
        assert once_more.error == pytest.approx((1 + weight) / 40 * retain.error)
        nothing = metric.weighted_metric(replace(retain, count=0), comparison, 0.0, 0.05, like)
        assert nothing.error == pytest.approx(retain.error)

    @pytest.mark.parametrize("sketched", [False, True])
    def test_it_is_for_tensors_of_the_dtype_that_is_asked_for(self, sketched: bool) -> None:
        one, other = (sketch_of(rows, 4) if sketched else sums(rows) for rows in (drawn(0, 40, 8), drawn(1, 40, 8)))
        columns = drawn(2, 8, 3)
        exact, short = (metric.weighted_metric(one, other, 0.5, 0.05, like) for like in (columns, columns.float()))
        near(short.whiten(columns.float()), exact.whiten(columns).float(), 1e-5)
        near(short.solve(columns.float()), exact.solve(columns).float(), 1e-5)

    @pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
    def test_an_exact_one_adds_the_comparison_so_many_times(self, weight: float) -> None:
        retain, comparison = sums(drawn(0, 40, 6)), sums(drawn(1, 9, 6))
        found = metric.weighted_metric(retain, comparison, weight, 0.05, retain.outer)
        moment = retain.outer / 40 + weight * comparison.outer / 9
        assert isinstance(found, DenseMetric)
        self.check(found, moment, 0.05)
        with pytest.raises(TypeError, match="cannot be added"):
            metric.weighted_metric(retain, sketch_of(drawn(1, 9, 6), 4), weight, 0.05, retain.outer)


class TestBases:
    total = sums(drawn(0, 50, 6))

    def base(self, ridge: float = 0.05) -> bases.Base:
        return bases.Base(self.total, ridge, self.total.outer)

    def test_a_base_is_the_ridged_mean_of_the_total(self) -> None:
        base, columns, kept = self.base(), drawn(1, 6, 3), self.total.outer.clone()
        whole = ridged(self.total.second_moment, 0.05)
        near(base.backward(base.forward(whole @ columns)), columns)
        near(base.moment(columns), self.total.second_moment @ columns)
        near(base.energy(columns.T), (columns.T @ self.total.second_moment @ columns).trace())
        assert base.shift == pytest.approx(0.05 * float(self.total.second_moment.trace()) / 6)
        assert base.bytes == 6 * 6 * 8
        assert torch.equal(self.total.outer, kept)
        assert bases.Base(self.total, 0.05, self.total.outer.float()).bytes == 6 * 6 * 4

    def test_a_total_of_nothing_is_divided_by_one(self) -> None:
        base = bases.Base(Moments(torch.eye(2).double(), torch.zeros(2).double(), 0), 0.0, torch.zeros(1).double())
        near(base.moment(torch.eye(2).double()), torch.eye(2).double())

    @pytest.mark.parametrize("excess", [0.0, 0.3, 1.0, 50.0])
    def test_a_shared_metric_adds_and_takes_rows_and_has_its_own_ridge(self, excess: float) -> None:
        base, added, taken = self.base(), drawn(1, 2, 6), 0.1 * drawn(2, 3, 6)
        scale = 1.5
        moment = scale * self.total.second_moment + added.T @ added - taken.T @ taken
        ridge = scale * base.shift * (1 + excess)
        found, columns = bases.SharedMetric(base, scale, added, taken, ridge), drawn(3, 6, 4)
        whole = moment + ridge * torch.eye(6).double()
        near(found.solve(whole @ columns), columns, 1e-8)
        near(found.whiten(whole @ found.unwhiten(columns)), columns)
        near(found.moment_of(columns), columns.T @ moment @ columns)
        near(found.energy(columns.T), (columns.T @ moment @ columns).trace())
        assert found.error == 0
        solved = torch.cat([columns[:, :1], torch.zeros(6, 1).double()], dim=1)
        assert not found.solve(solved)[:, 1].any()
        assert found.solve(columns / 0 * 0).isnan().all()

    @pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
    def test_the_tolerance_is_relative_and_for_the_two_ridges_of_the_metric(self, size: float) -> None:
        """Of a ridge that is not the base's times the scale, but divided by it."""
        base, taken = self.base(), 0.1 * drawn(2, 3, 6)
        ridge = 1.5 / base.shift
        found, columns = bases.SharedMetric(base, 1.5, taken[:0], taken, ridge), size * drawn(3, 6, 4)
        moment = 1.5 * self.total.second_moment - taken.T @ taken
        near(found.solve((moment + ridge * torch.eye(6).double()) @ columns), columns, 1e-9)

    @pytest.mark.parametrize("excess", [0.0, 0.3, 1.0, 50.0])
    def test_it_iterates_as_often_as_is_reckoned_at_most(self, excess: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """A column that is solved at once keeps no other waiting; without an excess there is nothing to iterate."""
        counted, apply = [], bases.SharedMetric._preconditioned
        monkeypatch.setattr(
            bases.SharedMetric, "_preconditioned", lambda *given: counted.append(given) or apply(*given)
        )
        base, taken = self.base(), 0.1 * drawn(2, 3, 6)
        ridge = 1.5 * base.shift * (1 + excess)
        found = bases.SharedMetric(base, 1.5, taken[:0], taken, ridge)
        found.solve(torch.cat([drawn(3, 6, 4), torch.zeros(6, 1).double()], dim=1))
        assert 1 <= len(counted) <= bases.rounds(1.5 * base.shift, ridge, torch.float64)

    def test_bases_are_let_go_when_the_next_would_not_fit_the_least_used_first(self) -> None:
        like, one = self.total.outer, 6 * 6 * 8
        kept = MetricBases(2 * one)
        first, second = (kept.base(name, self.total, 0.05, like) for name in "ab")
        assert kept.base("a", self.total, 0.05, like) is first
        kept.base("c", self.total, 0.05, like)
        assert kept.base("a", self.total, 0.05, like) is first
        assert kept.base("b", self.total, 0.05, like) is not second
        tight = MetricBases(2 * one - 1)
        first = tight.base("a", self.total, 0.05, like)
        tight.base("b", self.total, 0.05, like)
        assert tight.base("a", self.total, 0.05, like) is not first

    def test_bases_of_other_ridges_or_dtypes_are_others(self) -> None:
        kept = MetricBases(2**20)
        first = kept.base("a", self.total, 0.05, self.total.outer)
        assert kept.base("a", self.total, 0.06, self.total.outer) is not first
        assert kept.base("a", self.total, 0.05, self.total.outer.float()) is not first
        for other in (replace(self.total, count=51), replace(self.total, total=self.total.total + 1)):
            with pytest.raises(ValueError, match="a had another total"):
                kept.base("a", other, 0.05, self.total.outer)

    def test_rounds_are_those_of_conjugate_gradients(self) -> None:
        """2 rateⁿ ≤ tolerance, with the rate of a condition of 4: a third."""
        assert bases.rounds(1.0, 1.0, torch.float64) == 1
        for own, ridge in ((1.0, 4.0), (4.0, 1.0)):
            assert bases.rounds(own, ridge, torch.float64) == 1 + int(np.ceil(np.log(2e10) / np.log(3)))
            assert bases.rounds(own, ridge, torch.float32) == 1 + int(np.ceil(np.log(2e5) / np.log(3)))
            assert bases._left_over(own, ridge) == pytest.approx(0.6 / 0.8)
        assert bases.rounds(1.0, 25.0, torch.float64) == 1 + int(np.ceil(np.log(2e10) / np.log(1.5)))

    def test_nothing_by_nothing_is_nothing(self) -> None:
        found = bases._ratio(torch.tensor([6.0, 1.0, 0.0]), torch.tensor([2.0, 0.0, 0.0]))
        assert found.tolist() == [3.0, 0.0, 0.0]


class TestRetained:
    @pytest.mark.parametrize("inputs", [4, 10])
    @pytest.mark.parametrize("rows", [0, 1, 3])
    @pytest.mark.parametrize("times", [1, 3])
    def test_a_shared_factor_is_cheaper_where_it_takes_fewer_operations(
        self, inputs: int, rows: int, times: int
    ) -> None:
        for keys in range(inputs + 2):
            direct = inputs**3 / 3 + 2 * inputs**2 * (rows + keys)
            shared = inputs**2 * rows + 2 * inputs * rows**2 + times * keys * (2 * inputs**2 + 4 * inputs * rows)
            assert shared_is_cheaper(inputs, keys, rows, times) == (shared < direct and keys <= inputs)

    @pytest.mark.parametrize("weight", [0.0, 2.0])
    @pytest.mark.parametrize("compared", [None, 5])
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("summed", [False, True])
    def test_the_metric_is_the_total_less_the_target_and_the_comparison_once_more(
        self, weight: float, compared: int | None, shared: bool, summed: bool
    ) -> None:
        rows, columns = drawn(0, 160, 120), drawn(1, 120, 2)
        target, comparison = rows[:2], None if compared is None else rows[2 : 2 + compared]
        parts = [one if one is None or not summed else sums(one) for one in (target, comparison)]
        assert parts[0] is not None
        one, total = Retained("site", sums(rows), parts[0], parts[1]), rows.T @ rows
        retain = (total - target.T @ target) / 158
        moment = retain * (1 + weight) if comparison is None else retain + weight * comparison.T @ comparison / 5
        found = metric_of(one, 1, weight, 0.1, rows, MetricBases(2**20) if shared else None)
        assert isinstance(found, bases.SharedMetric) is (shared and not summed)
        whole = ridged(moment, 0.1)
        near(found.solve(whole @ columns), columns, 1e-8)
        near(found.energy(columns.T), (columns.T @ moment @ columns).trace())
        near(one.mean, rows[2:].mean(0))
        assert one.count == 158
        if shared:
            assert isinstance(metric_of(one, 1, weight, 0.0, rows, MetricBases(2**20)), DenseMetric)
