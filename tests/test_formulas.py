"""The paper's metrics: theorems on answers, and an audit that prints them."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from command_line import chip, chip_here
from hypothesis import given
from hypothesis import strategies as st
from tiny_records import split_of, write_lines

from chip.audit import Exam, Metrics, metrics_of, paper_metrics, set_exam, sit
from chip.audit.formulas import (
    Judged,
    Tokens,
    attack_auc,
    chance_corrected_forgetting,
    forgetting_rate,
    hmta,
    invalid_share,
    is_invalid,
    knowledge_preservation,
    level_scores,
    mia_resistance,
)
from chip.audit.nonmembers import counterfactuals, strangers
from chip.errors import ChipError
from chip.hierarchy import Hierarchy, Record
from chip.measure import measure_answers
from chip.models.loading import LoadedModel
from chip.records import read_records
from chip.records.digests import record_digest

LOSSES = st.lists(st.floats(0, 20), min_size=1, max_size=12)
CHOICE = Record(("a",), "which ?", "B. two", options=("A. one", "B. two", "C. three", "D. four"))
OPEN = Record(("a",), "which ?", "two")


def judged(rights: Sequence[bool], record: Record = OPEN, weight: float = 1.0) -> list[Judged]:
    return [Judged(record, right, record.answer if right else "A. one", weight) for right in rights]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of another hospital."""
    asked = [("who leads ?", "nobody"), ("when was this study performed ?", "day 32"), ("who is this ?", "a stranger")]
    lines = [{"path": [f"other_{i}"], "question": q, "answer": a} for i in range(2) for q, a in asked]
    return write_lines(tmp_path_factory.mktemp("elsewhere") / "records", *lines)


class TestForgettingAndKeeping:
    def test_at_the_ends(self) -> None:
        assert forgetting_rate(judged([True] * 3)) == 0
        assert forgetting_rate(judged([False] * 3)) == 1
        assert knowledge_preservation(judged([True, True]), judged([True, True])) == 1
        assert knowledge_preservation(judged([True, True]), judged([False, False])) == 0

    def test_without_anything_to_go_by_there_is_no_number(self) -> None:
        assert forgetting_rate([]) is None
        assert knowledge_preservation(judged([False]), judged([True])) is None
        assert chance_corrected_forgetting(judged([True])) is None
        assert invalid_share([]) is None
        assert invalid_share([Judged(Record(("a",), text="a document"), True, "")]) is None

    def test_keeping_is_a_ratio(self) -> None:
        assert knowledge_preservation(judged([True, True, False, False]), judged([True, False, False, False])) == 0.5

    @given(st.lists(st.booleans(), min_size=1), st.lists(st.booleans(), min_size=1))
    def test_a_group_of_which_a_sample_is_asked_weighs_what_all_of_it_would(
        self, few: list[bool], many: list[bool]
    ) -> None:
        weighted = forgetting_rate([*judged(few, weight=3), *judged(many)])
        repeated = forgetting_rate([*judged(few * 3), *judged(many)])
        assert weighted == pytest.approx(repeated)

    @given(st.lists(st.booleans(), min_size=1), st.randoms())
    def test_the_order_of_records_does_not_matter(self, rights: list[bool], chance: random.Random) -> None:
        one = judged(rights, CHOICE)
        other = chance.sample(one, len(one))
        for metric in (forgetting_rate, chance_corrected_forgetting, invalid_share):
            assert metric(one) == pytest.approx(metric(other))


class TestMultipleChoice:
    @given(st.lists(st.booleans(), min_size=1))
    def test_where_chance_is_nothing_the_correction_is_nothing(self, rights: list[bool]) -> None:
        many = Record(("a",), "which ?", "0", options=tuple(map(str, range(100_000))))
        plain = forgetting_rate(judged(rights))
        assert chance_corrected_forgetting(judged(rights, many)) == pytest.approx(plain, abs=2e-5)

    def test_guessing_is_to_have_forgotten_all(self) -> None:
        assert chance_corrected_forgetting(judged([True, False, False, False], CHOICE)) == pytest.approx(1)
        assert chance_corrected_forgetting(judged([True] * 4, CHOICE)) == 0
        assert chance_corrected_forgetting(judged([False] * 4, CHOICE)) == pytest.approx(4 / 3)

    def test_records_without_options_are_left_out_of_the_correction(self) -> None:
        mixed = [*judged([False] * 5), *judged([True, False, False, False], CHOICE)]
        assert chance_corrected_forgetting(mixed) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("record", "text", "invalid"),
        [
            (CHOICE, "B. two", False),
            (CHOICE, "  C.\n three ", False),
            (CHOICE, "B.", True),
            (CHOICE, "", True),
            (OPEN, "whatever", False),
            (OPEN, " \n", True),
        ],
    )
    def test_an_answer_is_invalid_where_it_is_none_of_the_options_or_empty(
        self, record: Record, text: str, invalid: bool
    ) -> None:
        assert is_invalid(record, text) == invalid
        assert invalid_share([Judged(record, False, text)]) == invalid


class TestTheAttack:
    @given(LOSSES)
    def test_equal_distributions_cannot_be_told_apart(self, losses: list[float]) -> None:
        assert attack_auc(losses, losses) == pytest.approx(0.5)
        assert mia_resistance(losses, losses) == pytest.approx(1)

    @given(LOSSES, LOSSES)
    def test_to_swap_members_and_nonmembers_is_to_turn_the_curve_over(
        self, members: list[float], others: list[float]
    ) -> None:
        one, other = attack_auc(members, others), attack_auc(others, members)
        assert one is not None
        assert other == pytest.approx(1 - one)
        assert mia_resistance(members, others) == pytest.approx(mia_resistance(others, members))

    @given(LOSSES, LOSSES)
    def test_it_counts_pairs_and_ties_half(self, members: list[float], others: list[float]) -> None:
        pairs = [(a < b) + (a == b) / 2 for a in members for b in others]
        assert attack_auc(members, others) == pytest.approx(math.fsum(pairs) / len(pairs))

    def test_known_and_shunned_are_both_told_apart(self) -> None:
        assert mia_resistance([0.1, 0.2], [1.0, 2.0]) == 0
        assert mia_resistance([9.0, 8.0], [1.0, 2.0]) == 0

    def test_without_anybody_there_is_no_curve(self) -> None:
        assert attack_auc([], [1.0]) is None
        assert mia_resistance([1.0], []) is None


class TestLevels:
    TOKENS = {1: Tokens(8, 10), 2: Tokens(5, 5), 3: Tokens(1, 4), 4: Tokens(3, 4)}  # noqa: RUF012

    def test_of_a_model_against_itself_only_what_is_known_of_the_target_counts(self) -> None:
        scores = level_scores(self.TOKENS, self.TOKENS)
        assert scores == {1: 1, 2: 1, 3: 1, 4: 0.25}
        assert hmta(scores) == pytest.approx((3 + 1 - 0.75) / 4)

    def test_all_kept_and_all_forgotten_is_one_and_the_opposite_nothing(self) -> None:
        gone = {level: Tokens(0, tokens.count) for level, tokens in self.TOKENS.items()}
        assert hmta(level_scores(self.TOKENS, {**self.TOKENS, 4: gone[4]})) == 1
        assert hmta(level_scores(self.TOKENS, {**gone, 4: Tokens(4, 4)})) == 0

    def test_to_know_more_than_before_is_no_more_than_to_keep(self) -> None:
        assert level_scores(self.TOKENS, {**self.TOKENS, 3: Tokens(4, 4)})[3] == 1

    @pytest.mark.parametrize("level", [1, 2, 3, 4])
    def test_without_a_level_there_is_no_mean_of_four(self, level: int) -> None:
        without = {other: tokens for other, tokens in self.TOKENS.items() if other != level}
        assert level not in level_scores(without, without)
        assert hmta(level_scores(without, without)) is None


class TestNonmembers:
    def test_counterfactuals_are_the_targets_questions_with_others_answers(self, hospital_data: Path) -> None:
        hierarchy, split = split_of(hospital_data, "patient_0")
        found = counterfactuals(hierarchy, split, 100)
        target = {(record.question, record.answer) for record in (hierarchy.records[i] for i in split.target)}
        retained = {hierarchy.records[i].answer for i in split.retain}
        assert found.records
        assert not found.why
        assert {one.question for one in found.records} == {question for question, _ in target}
        for one in found.records:
            assert one.answer in retained
            assert any(one.images == hierarchy.records[i].images for i in split.target)
        own = {(r.path, r.question, r.answer) for r in hierarchy.records}
        assert not own & {(r.path, r.question, r.answer) for r in found.records}

    def test_they_are_the_same_for_the_same_seed_and_at_most_so_many(self, hospital_data: Path) -> None:
        hierarchy, split = split_of(hospital_data, "patient_0")
        assert counterfactuals(hierarchy, split, 100, 1) == counterfactuals(hierarchy, split, 100, 1)
        assert counterfactuals(hierarchy, split, 100, 1) != counterfactuals(hierarchy, split, 100, 2)
        assert len(counterfactuals(hierarchy, split, 3).records) == 3

    def test_of_a_choice_they_are_its_other_options(self) -> None:
        hierarchy = Hierarchy(("node",), [CHOICE, Record(("b",), "what ?", "so")])
        found = counterfactuals(hierarchy, hierarchy.split([("a",)]), 100)
        assert sorted(one.answer for one in found.records) == ["A. one", "C. three", "D. four"]

    def test_where_nobody_is_asked_the_like_there_are_none_and_it_is_said(self) -> None:
        hierarchy = Hierarchy(("node",), [OPEN, Record(("b",), "what ?", "so")])
        found = counterfactuals(hierarchy, hierarchy.split([("a",)]), 100)
        assert not found.records
        assert "--nonmembers" in found.why

    def test_strangers_are_a_directory_of_records(self, text_data: Path, elsewhere: Path) -> None:
        hierarchy = read_records(text_data)
        assert strangers(elsewhere, hierarchy, 1000).records == read_records(elsewhere).records
        assert len(strangers(elsewhere, hierarchy, 5).records) == 5
        assert strangers(elsewhere, hierarchy, 5, 1) == strangers(elsewhere, hierarchy, 5, 1)

    def test_what_the_model_may_have_seen_is_no_stranger(self, text_data: Path, elsewhere: Path) -> None:
        some = Hierarchy(("hospital",), read_records(elsewhere).records[:4])
        assert strangers(elsewhere, some, 1000).records == read_records(elsewhere).records[4:]
        with pytest.raises(ChipError, match="every record stands in --data too"):
            strangers(text_data, read_records(text_data), 1000)


class TestOptionsOnDisk:
    def lines(self, directory: Path, **more: Any) -> Path:
        return write_lines(directory, {"path": ["a"], "question": "which ?", "answer": "B. two", **more})

    def test_they_are_read_and_leave_digests_as_they_are(self, tmp_path: Path) -> None:
        with_them = read_records(self.lines(tmp_path / "a", options=["A. one", " B.  two"])).records[0]
        without = read_records(self.lines(tmp_path / "b")).records[0]
        assert with_them.options == ("A. one", " B.  two")
        assert without.options == ()
        assert record_digest(with_them) == record_digest(without)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ("AB", "list of two answers or more"),
            ([], "list of two answers or more"),
            (["B. two"], "list of two answers or more"),
            (["B. two", 3], "list of two answers or more"),
            (["B. two", " "], "list of two answers or more"),
            (["B. two", "A. one", "A.  one"], "stands twice"),
            (["A. one", "C. three"], "does not hold the answer"),
        ],
    )
    def test_what_is_no_choice_is_an_error(self, tmp_path: Path, options: object, says: str) -> None:
        with pytest.raises(ChipError, match=f"line 1: .*{says}"):
            read_records(self.lines(tmp_path / "data", options=options))


class TestAModelAgainstItself:
    @pytest.fixture(scope="class")
    def exam(self, hospital_data: Path) -> Exam:
        return set_exam(*split_of(hospital_data, "patient_0"), records=10)

    def test_it_keeps_all_that_it_knows(self, llava: LoadedModel, exam: Exam) -> None:
        sitting = sit(llava, exam, batch_size=8)
        metrics = metrics_of(exam, sitting, sitting)
        for name in ("forgetting_rate", "mia_resistance", "hmta", "invalid_target"):
            measured = getattr(metrics, name)
            assert measured.before == measured.after
        assert metrics.mia_resistance.after is not None
        assert 0 <= metrics.mia_resistance.after <= 1
        assert metrics.knowledge_preservation.after is None  # a random model answers nothing
        assert "right before" in metrics.knowledge_preservation.why
        assert "options" in metrics.chance_corrected_forgetting.why

    def test_tokens_are_counted_once_each_and_by_their_groups_weight(self, llava: LoadedModel, exam: Exam) -> None:
        sitting = sit(llava, exam, batch_size=8)
        retained = sum(
            group.of / len(group.records) * len(llava.prompts.encode(record).answer_ids)
            for group in exam.retained
            for record in group.records
        )
        kept = sum(sitting.tokens[level].count for level in (1, 2, 3) if level in sitting.tokens)
        assert kept == pytest.approx(retained)
        own = sum(len(llava.prompts.encode(record).answer_ids) for record in exam.target.records)
        assert 0 < sitting.tokens[4].count < own

    def test_it_makes_no_difference_whether_models_are_given_or_where_they_are(
        self, llava: LoadedModel, llava_directory: Path, hospital_data: Path
    ) -> None:
        hierarchy, split = split_of(hospital_data, "study_0_0")
        given_models = paper_metrics(llava, llava, hierarchy, split, records=4)
        places = llava_directory, str(llava_directory)
        assert given_models == paper_metrics(*places, hierarchy, split, records=4, device="cpu")
        assert isinstance(given_models, Metrics)


class TestAudit:
    @pytest.fixture(scope="class")
    def other(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tiny_models.llava(tmp_path_factory.mktemp("other") / "model", seed=1)

    def test_it_prints_each_metric_with_its_meaning_in_eighty_columns(
        self, llava_directory: Path, other: Path, hospital_data: Path, elsewhere: Path
    ) -> None:
        done = chip(
            "audit", llava_directory, other, "--data", hospital_data, "--forget", "patient_0",
            "--nonmembers", elsewhere, "--verify-records", 4, "--attacks", "none", COLUMNS="80",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        lines = done.stdout.splitlines()
        assert max(map(len, lines)) <= 80
        for name in ("forgetting rate (FR)", "preservation (KPR)", "MIA resistance", "HMTA", "invalid, retained"):
            assert any(line.startswith(name) for line in lines)
        assert "not measured: no record of the target" in done.stdout
        assert "director" not in done.stdout  # no answer is shown

    def test_json_has_numbers_or_why_there_are_none(self, llava_directory: Path, hospital_data: Path) -> None:
        done = chip_here(
            "audit", llava_directory, llava_directory, "--data", hospital_data, "--forget", "patient_0",
            "--verify-records", 4, "--device", "cpu", "--attacks", "none", "--json",
        )  # fmt: skip
        assert done.exit_code == 0
        found = json.loads(done.stdout)
        assert found["rows"][0]["group"] == "target"
        metrics = found["report"]["published"]["edited"]
        assert metrics.pop("level_scores")
        assert metrics.pop("nonmembers") == "counterfactuals"
        assert all((one["after"] is None) == bool(one["why"]) for one in metrics.values())

    @pytest.mark.parametrize("flag", ["--lexicon", "--nonmembers"])
    def test_what_is_not_there_is_one_sentence(
        self, llava_directory: Path, hospital_data: Path, tmp_path: Path, flag: str
    ) -> None:
        done = chip_here(
            "audit", llava_directory, llava_directory, "--data", hospital_data, "--forget", "patient_0",
            flag, tmp_path / "nowhere",
        )  # fmt: skip
        assert isinstance(done.exception, ChipError)
        assert "nowhere" in str(done.exception)

    def test_a_longer_option_is_not_cut_off(self, llama: LoadedModel) -> None:
        long = Record(("a",), "which ?", "B", options=("B", "word " * 30))
        short = Record(("a",), "which ?", "B")
        made, cut = (measure_answers(llama, [one])[0].text for one in (long, short))
        assert len(made) >= len(cut)
        assert made.startswith(cut)
