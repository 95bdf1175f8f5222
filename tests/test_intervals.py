"""Intervals: theorems on the bootstrap, and what it says where it has nothing to say."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chip.audit.formulas import attack_auc
from chip.audit.intervals import auc_interval, estimate, mean_interval

NUMBERS = st.lists(st.floats(-5, 5), min_size=2, max_size=30)


@given(NUMBERS)
def test_a_mean_lies_between_the_smallest_and_the_largest(values: list[float]) -> None:
    found = mean_interval(values, share=False)
    assert found is not None
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


@given(NUMBERS)
def test_the_same_numbers_have_the_same_interval(values: list[float]) -> None:
    assert mean_interval(values, 1) == mean_interval(values, 1)


@given(NUMBERS, st.floats(-3, 3), st.floats(0.1, 3))
def test_it_moves_and_grows_with_its_numbers(values: list[float], by: float, times: float) -> None:
    changed = [times * value + by for value in values]
    found, moved = mean_interval(values, share=False), mean_interval(changed, share=False)
    assert found is not None
    assert moved is not None
    assert moved.low == pytest.approx(times * found.low + by, abs=1e-9)
    assert moved.high == pytest.approx(times * found.high + by, abs=1e-9)


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = random.Random(0)
    held = [mean_interval([draw.random() < 0.4 for _ in range(50)], i) for i in range(200)]
    assert 0.88 <= sum(one is not None and one.holds(0.4) for one in held) / 200 <= 0.99


@pytest.mark.parametrize("count", [1, 2, 14, 100])
def test_where_all_agree_the_interval_is_the_exact_one(count: int) -> None:
    none, all_of_them = mean_interval([0.0] * count), mean_interval([1.0] * count)
    assert none is not None
    assert all_of_them is not None
    assert none.low == 0
    assert (1 - none.high) ** count == pytest.approx(0.025)
    assert all_of_them.low == pytest.approx(1 - none.high)


def test_one_record_says_how_little_it_says() -> None:
    found = estimate([0.0])
    assert found is not None
    assert found.interval is not None
    assert found.interval.high == pytest.approx(0.975)
    assert mean_interval([2.5], share=False) is None
    assert mean_interval([0.0], share=False) is None
    assert mean_interval([]) is None
    assert estimate([]) is None


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_random_scorers_area_is_a_half_and_anothers_is_not(shift: float) -> None:
    draw = np.random.default_rng(3)
    members, others = (draw.normal(size=60) + shift * 3).tolist(), draw.normal(size=60).tolist()
    found = auc_interval(members, others)
    assert found is not None
    area = attack_auc([-one for one in members], [-one for one in others])
    assert area is not None
    assert found.holds(area)
    assert found.holds(0.5) == (shift == 0)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.lists(st.integers(0, 3), min_size=2, max_size=9))
def test_to_swap_members_and_others_turns_the_area_over(members: list[int], others: list[int]) -> None:
    def far(change: Callable[[float], float]) -> float:
        found = auc_interval([change(one) for one in members], [change(one) for one in others])
        assert found is not None
        return found.high

    assert far(float) >= 1 - far(lambda one: -one) - 0.3  # other draws, the same number of them
    assert auc_interval([1.0], [float(one) for one in others]) is None
