"""Verdicts: the stated thresholds, on every scale, and what makes a verdict milder or stricter."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chip.audit.finding import Finding, Scale, not_measured
from chip.audit.intervals import Interval
from chip.audit.verdicts import FAIL, WATCH, Judgement, judge, worst

SHARES = st.floats(0, 1)
SCORES = tuple((line, 0.0) for line in range(1, 11))


def finding(value: float | None, scale: Scale = "share", interval: Interval | None = None) -> Finding:
    return Finding("probe", value, interval, scale, SCORES)


class TestAgainstARetrainedModel:
    @given(SHARES, SHARES)
    def test_less_than_it_gives_is_a_pass(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        assert judge(finding(low), finding(1.0), finding(high)).verdict == "pass"

    @given(SHARES)
    def test_what_gives_as_much_is_a_pass_on_every_scale(self, value: float) -> None:
        for scale in ("share", "area", "trace"):
            assert judge(finding(value, scale), finding(1.0, scale), finding(value, scale)).verdict == "pass"  # type: ignore[arg-type]

    @given(SHARES, SHARES, SHARES)
    def test_to_give_more_is_never_judged_better(self, gold: float, one: float, other: float) -> None:
        low, high = sorted((one, other))
        order = ["pass", "watch", "fail"]
        verdicts = [judge(finding(value), finding(1.0), finding(gold)).verdict for value in (low, high)]
        assert order.index(verdicts[0]) <= order.index(verdicts[1])

    def test_a_model_that_leaks_fails_and_one_between_is_watched(self) -> None:
        verdicts = [judge(finding(value), finding(1.0), finding(0.0)).verdict for value in (0.04, 0.1, 0.5, 1.0)]
        assert verdicts == ["pass", "watch", "fail", "fail"]

    def test_an_area_far_below_that_of_the_retrained_model_leaks_as_one_far_above(self) -> None:
        near = {area: finding(area, "area", Interval(area - 0.02, area + 0.02)) for area in (0.1, 0.49, 0.55, 0.9)}
        verdicts = [judge(near[area], None, finding(0.5, "area")).verdict for area in (0.1, 0.49, 0.55, 0.9)]
        assert verdicts == ["fail", "pass", "watch", "fail"]

    @pytest.mark.parametrize(
        ("gold", "area", "verdict"),
        [(0.59, 0.5, "pass"), (0.7, 0.61, "pass"), (0.28, 0.1, "fail"), (0.7, 0.3, "fail"), (0.59, 0.46, "watch")],
    )
    def test_an_area_nearer_to_a_half_than_the_retrained_models_tells_less(
        self, gold: float, area: float, verdict: str
    ) -> None:
        found = finding(area, "area", Interval(area - 0.01, area + 0.01))
        assert judge(found, None, finding(gold, "area")).verdict == verdict

    def test_what_chance_may_have_done_is_watched(self) -> None:
        wide = finding(0.8, "area", Interval(0.45, 0.95))
        assert judge(wide, None, finding(0.5, "area")).verdict == "watch"
        assert judge(replace(wide, interval=Interval(0.6, 0.95)), None, finding(0.5, "area")).verdict == "fail"

    def test_without_a_retrained_model_chance_is_what_tells_nothing(self) -> None:
        known = finding(1.0, "area")
        assert judge(finding(0.7, "area", Interval(0.45, 0.9)), known, None).verdict == "watch"
        assert judge(finding(0.7, "area", Interval(0.6, 0.9)), known, None).verdict == "fail"

    @pytest.mark.parametrize("scale", ["area", "trace"])
    def test_of_few_records_an_area_never_fails(self, scale: Scale) -> None:
        told = replace(finding(1.0, scale, Interval(1.0, 1.0)), scores=SCORES[:3])
        assert judge(told, None, finding(0.3, scale)).verdict == "watch"
        assert judge(replace(told, scores=SCORES), None, finding(0.3, scale)).verdict == "fail"
        assert judge(finding(0.8, scale), None, finding(0.3, scale)).verdict == "watch"  # there is no interval

    def test_what_came_back_did_not_come_by_chance(self) -> None:
        assert judge(finding(0.4, interval=Interval(0.0, 0.8)), None, finding(0.0)).verdict == "fail"


class TestAgainstTheModelBefore:
    def test_it_is_the_share_that_is_left(self) -> None:
        verdicts = [judge(finding(value), finding(0.5), None) for value in (0.02, 0.05, 0.4)]
        assert [one.verdict for one in verdicts] == ["pass", "watch", "fail"]
        assert verdicts[2].excess == pytest.approx(0.8)
        assert "80%" in verdicts[2].reason

    def test_what_brings_nothing_back_from_the_model_before_tells_nothing(self) -> None:
        assert judge(finding(0.0), finding(0.0), None).verdict == "not tried"
        assert judge(finding(0.0), finding(0.0), finding(0.0)).verdict == "not tried"
        assert judge(finding(0.5), finding(0.0), finding(0.0)).verdict == "fail"
        assert judge(finding(0.5), finding(0.0), None).verdict == "fail"

    def test_a_trace_means_nothing_without_a_retrained_model(self) -> None:
        found = judge(finding(0.9, "trace"), finding(0.9, "trace"), None)
        assert found.verdict == "watch"
        assert "retrained" in found.reason

    def test_nor_does_what_only_a_retrained_model_can_put_in_proportion(self) -> None:
        biased = replace(finding(0.1, "area", Interval(0.05, 0.2)), needs_gold=True)
        assert judge(biased, finding(1.0, "area"), None).verdict == "watch"
        assert judge(biased, finding(1.0, "area"), finding(0.3, "area")).verdict == "fail"


class TestWithoutComparison:
    def test_what_stands_in_the_release_fails_however_little_it_is(self) -> None:
        assert judge(finding(0.01, "release"), finding(0.01, "release"), finding(0.01, "release")).verdict == "fail"
        assert judge(finding(0.0, "release"), None, None).verdict == "pass"

    def test_a_matter_of_caution_is_watched_at_most(self) -> None:
        assert judge(finding(1.0, "caution"), None, None).verdict == "watch"
        assert judge(finding(WATCH, "caution"), None, None).verdict == "pass"


def test_what_was_not_measured_has_no_verdict_and_says_why() -> None:
    found = judge(not_measured("probe", "there is no image"), finding(1.0), finding(0.0))
    assert found == Judgement("not tried", None, "there is no image")


@pytest.mark.parametrize("count", [1, 4, 5])
def test_few_records_allow_no_pass(count: int) -> None:
    found = judge(replace(finding(0.0), scores=SCORES[:count]), finding(1.0), finding(0.0))
    assert found.verdict == ("watch" if count < 5 else "pass")
    assert (f"{count} record" in found.reason) == (count < 5)


def test_an_attacks_verdict_is_its_worst_findings() -> None:
    def of(*verdicts: str) -> str:
        return worst(Judgement(one, 0.0, "") for one in verdicts)  # type: ignore[arg-type]

    assert of("pass", "fail", "watch") == "fail"
    assert of("not tried", "pass") == "pass"
    assert of("not tried") == "not tried"
    assert of() == "not tried"
    assert WATCH < FAIL
