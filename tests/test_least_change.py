"""What the counterpart method solves, against its quadratic form, and the small decisions around it, by hand."""

import pytest
import torch
from drawing import EPS, drawn, near, sums

from chip.collect import Moments
from chip.collect.sketch import sketch_of
from chip.settings import EditSettings
from chip.solve import counterpart, least_change, refresh
from chip.solve.counterpart import Tokens
from chip.solve.held import likeness
from chip.solve.image_keys import _mean_image
from chip.solve.least_change import SiteChange, Weights
from chip.solve.problem import Problem


class TestLeastChange:
    weight, keys, lacking = drawn(0, 4, 6), drawn(1, 20, 6), drawn(2, 20, 4)
    weights = Weights(
        drawn(3, 15).square(), drawn(4, 5).square(), torch.where(torch.arange(20) % 4 == 0, 3.0, 1.0).double()
    )
    moved = 0.3 * drawn(5, 4, 6)
    others = drawn(6, 30, 6)

    @pytest.mark.parametrize("form", ["none", "exact", "sketch"])
    @pytest.mark.parametrize("moved", [False, True])
    def test_it_is_the_minimiser_of_the_quadratic_form(self, form: str, moved: bool) -> None:
        unheld = {"none": None, "exact": sums(self.others), "sketch": sketch_of(self.others, 3)}[form]
        given = self.weight, self.keys, self.lacking, self.weights, unheld, 0.02
        found = least_change.solve_site(*given, 1.0, self.moved if moved else None)
        outside = torch.zeros(6, 6).double()
        if form == "exact":
            outside = self.others.T @ self.others / 45
        if form == "sketch":
            rows, level = sketch_of(self.others, 3).completed
            outside = (rows.T @ rows + level * torch.eye(6).double()) / 45
        held = self.keys[5:]
        moment = held.T @ (held * self.weights.retain[:, None]) + outside
        omega = (torch.cat([self.weights.target, self.weights.retain]) * self.weights.heavier)[:, None]
        whole = self.keys.T @ (self.keys * omega) + outside + 0.02 * moment.trace() / 6 * torch.eye(6).double()
        wanted = (self.keys * omega).T @ self.lacking - (outside @ self.moved.T if moved else 0)
        expected = torch.linalg.solve(whole, wanted).T
        near(found.delta, expected, 1e-8)
        energies = [float((one @ moment @ one.T).trace()) for one in (expected, self.weight)]
        assert found.distortion == pytest.approx(energies[0] / energies[1])
        assert found.relative == pytest.approx(float(expected.norm() / self.weight.norm()))
        near(found.left @ found.keys, found.left @ found.right @ ((self.keys * omega)[:5].T @ self.keys[:5]))
        assert found.rank == 4

    @pytest.mark.parametrize(
        ("kept", "rank"), [(0.24, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4), (1.0, 4)]
    )
    def test_the_fewest_directions_with_the_share_are_kept(self, kept: float, rank: int) -> None:
        """Four directions that gain the same: a quarter is one of them."""
        one = torch.eye(4).double()
        left, right = least_change._principal(one, one, kept)
        assert left.shape == right.T.shape == (4, rank)
        near((left @ right).square().sum(), torch.tensor(float(rank)).double())

    def test_the_largest_come_first_and_what_is_rounding_is_no_direction(self) -> None:
        sizes = torch.tensor([1.0, 3.0, 0.0, 2.0]).double()
        left, right = least_change._principal(torch.diag(sizes), torch.diag(sizes), 1.0)
        assert left.norm(dim=0).tolist() == pytest.approx([3.0, 2.0, 1.0])
        near(left @ right, torch.diag(sizes))
        near(right @ right.T, torch.eye(3).double())
        for scale in (2.0**-20, 2.0**20):
            small = scale * torch.diag(torch.tensor([1.0, 10 * EPS, 2 * EPS]).double().sqrt())
            assert least_change._principal(small, small, 1.0)[0].shape == (3, 2)
        left, right = least_change._principal(torch.eye(2), torch.eye(2), 1.0)
        assert left.dtype == right.dtype == torch.float32

    @pytest.mark.parametrize("form", ["none", "exact", "sketch"])
    def test_in_32_bits_it_is_the_same_but_for_rounding(self, form: str) -> None:
        unheld = {"none": None, "exact": sums(self.others), "sketch": sketch_of(self.others, 3)}[form]
        given = self.weights, unheld, 0.02, 1.0, self.moved
        exact = least_change.solve_site(self.weight, self.keys, self.lacking, *given)
        short = self.weight.float(), self.keys.float(), self.lacking.float()
        found = least_change.solve_site(*short, *given[:-1], self.moved.float())
        near(found.delta, exact.delta.float(), 1e-5)
        near(found.keys.double().norm(), exact.keys.norm(), 1e-4)

    def test_directions_are_found_in_64_bits(self) -> None:
        """In 32 the second, of a millionth of the gain, would not be of length one in the metric."""
        turn = torch.linalg.qr(drawn(7, 3, 3)).Q
        delta = (turn @ torch.diag(torch.tensor([1.0, 2e-3, 1e-3]).double()) @ turn.T).float()
        left, right = least_change._principal(delta, delta.T, 1.0)
        assert left.shape == (3, 3)
        near(right @ right.T, torch.eye(3), 1e-3)

    def test_rounds_make_what_slips_four_times_as_heavy(self) -> None:
        raised = self.weights.raised(torch.arange(20) == 1)
        assert (raised.heavier / self.weights.heavier).tolist() == [1.0, 4.0, *[1.0] * 18]
        assert raised.retain is self.weights.retain
        assert raised.target is self.weights.target

    def test_it_is_carried_in_32_bits(self) -> None:
        one = SiteChange(drawn(0, 4, 2), drawn(1, 2, 6), drawn(2, 2, 6), 0.5, 0.25).to("cpu")
        assert {part.dtype for part in (one.left, one.right, one.keys)} == {torch.float32}
        near(one.keys, drawn(2, 2, 6).float())
        near(one.right, drawn(1, 2, 6).float())
        assert (one.relative, one.distortion) == (0.5, 0.25)


class TestWeights:
    compared = torch.tensor([True, False, True, False, False])

    def weights(self, compared: torch.Tensor, unheld: Moments | None, **values: float) -> Weights:
        """Of four target tokens and five that are held; nothing of a request but its settings bears on them."""
        settings = EditSettings(method="counterpart", **values)  # type: ignore[arg-type]
        problem = Problem(*[None] * 5, settings, frozenset())  # type: ignore[arg-type]
        tokens = Tokens(4, compared, torch.arange(4), torch.ones(4).bool(), torch.zeros(9).long())
        return counterpart._weights(problem, tokens, unheld)

    def test_the_retained_count_alike_the_comparison_once_more_and_the_target_shares_the_strength(self) -> None:
        found = self.weights(self.compared, sums(drawn(0, 10, 2)), strength=2.0, sibling_weight=0.5)
        assert found.retain.tolist() == pytest.approx([1 / 15 + 0.25, 1 / 15, 1 / 15 + 0.25, 1 / 15, 1 / 15])
        assert found.target.tolist() == [0.5] * 4
        assert found.heavier.tolist() == [1.0] * 9
        assert {one.dtype for one in (found.retain, found.target, found.heavier)} == {torch.float64}

    def test_without_comparison_and_without_others_each_is_one_of_those_held(self) -> None:
        found = self.weights(torch.zeros(5).bool(), None, sibling_weight=0.5)
        assert found.retain.tolist() == pytest.approx([1 / 5] * 5)


class TestSlipping:
    tokens = Tokens(
        4,
        torch.tensor([False] * 5),
        torch.arange(4),
        torch.tensor([True, False, True, True]),
        torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 3]),
    )

    def test_held_tokens_slip_that_were_the_likeliest_and_are_no_longer_surely_so(self) -> None:
        before = torch.tensor([1.0] * 4 + [9.0, 9.0, 2.0, 0.0, -1.0])
        now = torch.tensor([-1.0] * 4 + [4.0, 3.9, 1.9, -1.0, -2.0])
        found = counterpart._slipping(before, now, self.tokens, 1e-7)
        assert found.tolist() == [False] * 4 + [False, True, True, False, False]

    def test_a_margin_that_fell_by_rounding_has_not_fallen(self) -> None:
        before = torch.tensor([1.0] * 4 + [2.0] * 5)
        for units, slips in ((31, False), (33, True)):
            found = counterpart._slipping(before, before - units * 2.0**-20, self.tokens, 2.0**-20)
            assert found[4:].tolist() == [slips] * 5

    def test_of_an_answer_that_is_still_given_in_full_what_could_tell_slips(self) -> None:
        """The first record is given up to its last token, the second in full, a margin of 0 counting as given."""
        before = torch.full((9,), 9.0)
        now = torch.tensor([1.0, -1.0, 0.0, 1.0, *[9.0] * 5])
        found = counterpart._slipping(before, now, self.tokens, 1e-7)
        assert found.tolist() == [False, False, True, True, *[False] * 5]
        now[1] = 2.0
        assert counterpart._slipping(before, now, self.tokens, 1e-7)[:4].tolist() == [True, False, True, True]


class TestSmallThings:
    def test_likeness_is_the_share_of_words_in_common(self) -> None:
        assert likeness("What is seen", "what is HEARD") == 0.5
        assert likeness("a b", "a b") == 1
        assert likeness("a", "b") == 0
        assert likeness("", "") == 0

    def test_shares_go_to_the_largest_remainder(self) -> None:
        assert refresh.shares([6, 3, 1], 5) == [3, 1, 1]
        assert refresh.shares([6, 3, 0], 3) == [2, 1, 0]
        assert refresh.shares([2, 2], 4) == [2, 2]
        assert refresh.shares([5, 5], 3) == [2, 1]
        assert refresh.shares([1, 9], 9) == [1, 8]

    def test_images_of_one_size_are_averaged_token_by_token_and_others_over_all(self) -> None:
        first, second = drawn(0, 3, 2), drawn(1, 3, 2)
        near(_mean_image([first, second], 3), (first + second) / 2)
        near(_mean_image([first, second], 4), torch.cat([first, second]).mean(0).expand(4, 2))
        near(_mean_image([first, second[:2]], 3), torch.cat([first, second[:2]]).mean(0).expand(3, 2))
