"""What a contest is made of: methods with flags, forget sets with what they are held against, and published scores."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chip.audit.exam import UTILITY, Exam, Sitting
from chip.errors import ChipError, UsageError
from chip.hierarchy import Record
from chip.measure import Group
from chip.medforget.contest import Contest, Method, Outcomes, contests, read_methods, shared, slug
from chip.medforget.scores import gaps, published_scores, rouge_l, task_of
from chip.medforget.splits import ForgetSet, Splits

NODE = ("i0", "p0")
SPLITS = Splits(
    {
        "institution": (ForgetSet("1-of-4", (("i0",),)),),
        "patient": (ForgetSet("1-of-9", (NODE,)), ForgetSet("2-of-9", (NODE, ("i1", "p1")))),
        "study": (),
    }
)


class TestMethods:
    def test_flags_belong_to_the_method_that_they_follow(self) -> None:
        found = read_methods("oblique, chip --layers 0-3 --top-k 5,duolearn --no-dp")
        assert found == (
            Method("oblique"),
            Method("chip", ("--layers", "0-3", "--top-k", "5")),
            Method("duolearn", ("--no-dp",)),
        )
        assert read_methods(",".join(one.said for one in found)) == found

    def test_one_method_may_stand_there_with_several_settings(self) -> None:
        assert len(read_methods("chip,chip --layers 0,chip --layers 1")) == 3

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("oblik", "'oblik' is no method; there are counterpart"),
            ("", "names no method"),
            ("chip,", "names no method"),
            ("chip --layers '0", "names no method"),
            ("chip layers", "must be a method, then flags"),
            ("chip --layers 0,1", "'1' is no method"),
            ("chip,oblique,chip", "'chip' stands there twice"),
        ],
    )
    def test_what_is_no_list_of_methods_is_wrong_usage(self, text: str, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            read_methods(text)


def model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


def named(found: tuple[Contest, ...]) -> dict[str, Path | None]:
    return {one.name: one.gold for one in found}


class TestContests:
    def test_levels_and_sets_choose_and_all_is_the_default(self) -> None:
        assert [*named(contests(SPLITS, (), (), None))] == ["institution 1-of-4", "patient 1-of-9", "patient 2-of-9"]
        assert [*named(contests(SPLITS, ("patient",), (), None))] == ["patient 1-of-9", "patient 2-of-9"]
        assert [*named(contests(SPLITS, (), ("2-of-9", "1-of-4"), None))] == ["institution 1-of-4", "patient 2-of-9"]

    @pytest.mark.parametrize(
        ("levels", "names", "why"),
        [
            (("ward",), (), "no forget set at level 'ward'; there are sets for institution, patient"),
            (("study",), (), "no forget set at level 'study'"),
            ((), ("3-of-9",), "--set '3-of-9': no forget set is called so; there are 1-of-4, 1-of-9, 2-of-9"),
            ((), ("1-of-9", "3-of-9"), "--set '3-of-9'"),
            (("institution",), ("1-of-9",), "--set '1-of-9': no forget set is called so; there are 1-of-4"),
        ],
    )
    def test_what_is_not_there_is_wrong_usage(self, levels: tuple[str], names: tuple[str], why: str) -> None:
        with pytest.raises(UsageError, match=why):
            contests(SPLITS, levels, names, None)
        with pytest.raises(UsageError, match="have no forget set"):
            contests(Splits({"study": ()}), (), (), None)

    def test_a_folder_holds_retrained_models_by_level_or_by_level_and_set(self, tmp_path: Path) -> None:
        institution, patients = model(tmp_path / "institution"), model(tmp_path / "patient-2-of-9")
        model(tmp_path / "patient")  # of which set is not known, the level having two
        assert named(contests(SPLITS, (), (), tmp_path)) == {
            "institution 1-of-4": institution,
            "patient 1-of-9": None,
            "patient 2-of-9": patients,
        }
        own = model(tmp_path / "institution-1-of-4")
        assert named(contests(SPLITS, ("institution",), (), tmp_path)) == {"institution 1-of-4": own}

    def test_one_model_is_of_one_set(self, tmp_path: Path) -> None:
        gold = model(tmp_path / "gold")
        assert named(contests(SPLITS, ("patient",), ("1-of-9",), gold)) == {"patient 1-of-9": gold}
        with pytest.raises(UsageError, match="one model for 2 forget sets; give a folder"):
            contests(SPLITS, ("patient",), (), gold)

    def test_a_folder_without_any_such_model_is_an_error(self, tmp_path: Path) -> None:
        model(tmp_path / "patient")
        for folder in (tmp_path, tmp_path / "absent"):
            with pytest.raises(ChipError, match="holds no model called by a level"):
                contests(SPLITS, (), (), folder)


class TestOutcomes:
    contest = Contest("patient", SPLITS.levels["patient"][0])

    def test_what_was_asked_otherwise_does_not_count_and_is_said(self, tmp_path: Path) -> None:
        said: list[str] = []
        outcomes = Outcomes(tmp_path, said.append)
        assert not outcomes.has(self.contest, "chip", "here", "so")
        outcomes.put(self.contest, "chip", "here", "so", {"seconds": 3})
        assert outcomes.has(self.contest, "chip", "here", "so")
        assert outcomes.rows(self.contest, "here", {}) == {"chip": {"seconds": 3}}
        assert outcomes.rows(self.contest, "here", {"chip": "so"}) == {"chip": {"seconds": 3}}
        assert not said
        assert outcomes.rows(self.contest, "here", {"chip": "otherwise"}) == {}
        assert outcomes.rows(self.contest, "elsewhere", {}) == {}
        for context, command in (("elsewhere", "so"), ("here", "otherwise")):
            assert not outcomes.has(self.contest, "chip", context, command)
            assert "is measured again" in said.pop()

    def test_what_failed_is_told_and_tried_again(self, tmp_path: Path) -> None:
        said: list[str] = []
        outcomes = Outcomes(tmp_path, said.append)
        outcomes.put(self.contest, "npo", "here", "so", {"problem": "failed: no room", "stopped_at": 0})
        assert outcomes.rows(self.contest, "here", {})["npo"]["problem"] == "failed: no room"
        assert not outcomes.has(self.contest, "npo", "here", "so")
        assert "failed before and is tried again" in said.pop()

    def test_a_limit_that_was_reached_stands_for_every_smaller_one(self, tmp_path: Path) -> None:
        outcomes = Outcomes(tmp_path, lambda _: None)
        outcomes.put(self.contest, "npo", "here", "so", {"problem": "ended at its limit of 60 s", "stopped_at": 60})
        assert outcomes.has(self.contest, "npo", "here", "so", limit=60)
        assert outcomes.has(self.contest, "npo", "here", "so", limit=30)
        assert not outcomes.has(self.contest, "npo", "here", "so", limit=61)
        assert not outcomes.has(self.contest, "npo", "here", "so")

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "chip-medforget-outcome-1"}'])
    def test_a_damaged_one_is_an_error_that_says_what_to_do(self, tmp_path: Path, content: str) -> None:
        outcomes = Outcomes(tmp_path, lambda _: None)
        outcomes.put(self.contest, "chip", "here", "so", {})
        path = next((tmp_path / "outcomes").iterdir())
        path.write_text(content)
        with pytest.raises(ChipError, match="is damaged; remove it"):
            outcomes.has(self.contest, "chip", "here", "so")

    def test_names_that_differ_make_files_that_differ(self) -> None:
        names = (
            "patient 1-of-9",
            "patient x-y",
            "patient x y",
            "chip",
            "chip --layers 0",
            "chip --layers=0",
            "a/b",
            "a b",
            "A b",
        )
        found = [slug(name) for name in names]
        assert len({one.lower() for one in found}) == len(names)
        assert all("/" not in one and " " not in one for one in found)
        assert slug("patient 1-of-9") == "patient-1-of-9"

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_every_item_belongs_to_one_process(self, size: int) -> None:
        parts = [list(shared(range(5), rank, size)) for rank in range(size)]
        assert sorted(one for part in parts for one in part) == list(range(5))


CLOZE = "Fill in: the [blank] is clear."
CHOICE = "Which?\nA) left\nB) right\nC) both"
FREE = "What was found?"


def exam(**groups: tuple[int, int, list[Record]]) -> Exam:
    """The part of an exam that scores look at: by name, phrasing, of how many records, and those that are asked."""
    made = tuple(
        Group(name.replace("_", ", "), tuple(records), of=of, phrasing=phrasing)
        for name, (phrasing, of, records) in groups.items()
    )
    return cast(Exam, SimpleNamespace(groups=made))


def sitting(**answers: list[str]) -> Sitting:
    found = {
        (name.replace("_", ", "), place): SimpleNamespace(text=text)
        for name, texts in answers.items()
        for place, text in enumerate(texts)
    }
    return Sitting(cast(Any, found), (), {})


def asked(question: str, answer: str) -> Record:
    return Record(NODE, question, answer)


class TestScores:
    records = (asked(FREE, "the left lung is clear"), asked(CHOICE, "B) right"), asked(CLOZE, "lung"))
    paper = exam(target=(1, 3, [*records]), rest=(0, 3, [*records]))

    def test_a_model_that_answers_all_has_all(self) -> None:
        answers = [one.answer for one in self.records]
        scores = published_scores(self.paper, sitting(target=answers, rest=answers))
        everything = {
            "generation": {"records": 1, "rouge_l": 1.0},
            "classification": {"records": 1, "accuracy": 1.0},
            "cloze": {"records": 1, "accuracy": 1.0},
        }
        assert scores == {"forget": everything, "retain": everything}
        assert gaps(scores) == {
            "generation": {"rouge_l": 0.0}, "classification": {"accuracy": 0.0}, "cloze": {"accuracy": 0.0},
        }  # fmt: skip

    def test_a_model_that_answers_nothing_of_the_target_has_the_whole_gap(self) -> None:
        answers = [one.answer for one in self.records]
        scores = published_scores(self.paper, sitting(target=["", "", ""], rest=answers))
        assert [dict(one) for one in scores["forget"].values()] == [
            {"records": 1, "rouge_l": 0.0}, {"records": 1, "accuracy": 0.0}, {"records": 1, "accuracy": 0.0},
        ]  # fmt: skip
        assert {task: list(one.values()) for task, one in gaps(scores).items()} == {
            "generation": [1.0], "classification": [1.0], "cloze": [1.0],
        }  # fmt: skip

    def test_rouge_l_is_of_the_longest_common_subsequence(self) -> None:
        # "the left is clear" are 4 words in common, of 5 and of 6.
        assert rouge_l("the left side now is clear", "the left lung is clear") == pytest.approx(2 * 4 / 11)
        assert rouge_l("Lungs", "lung") == 1.0  # stemmed, in lower case

    def test_a_nearly_right_answer_is_no_right_one(self) -> None:
        scores = published_scores(self.paper, sitting(target=["", "B) right side", "lung"], rest=["", "", ""]))
        assert scores["forget"]["classification"]["accuracy"] == 0.0
        assert scores["forget"]["cloze"]["accuracy"] == 1.0

    def test_a_sampled_record_weighs_as_many_as_it_stands_for(self) -> None:
        free = asked(FREE, "clear lungs")
        found = published_scores(
            exam(target=(1, 1, [free]), siblings=(0, 2, [free, free]), rest=(0, 30, [free, free])),
            sitting(target=[""], siblings=["clear lungs", "clear lungs"], rest=["clear lungs", ""]),
        )
        # 2 siblings for themselves, all right; 2 of the rest for 15 each, one of them right.
        assert found["retain"]["generation"] == {"records": 4, "rouge_l": pytest.approx((2 + 15) / 32)}

    def test_the_marks_of_a_judge_make_the_total(self) -> None:
        free = asked(FREE, "clear lungs")
        paper = exam(target=(1, 2, [free, free]), rest=(0, 2, [free, free]))
        answers = sitting(target=["clear lungs", ""], rest=["clear lungs", "clear lungs"])
        marks = {("target", 0): 10.0, ("target", 1): 4.0, ("rest", 0): 8.0, ("rest", 1): 8.0}
        scores = published_scores(paper, answers, marks)
        assert scores["forget"]["generation"] == {
            "records": 2, "rouge_l": 0.5, "factuality": 7.0, "total": pytest.approx(0.25 * 0.5 + 0.75 * 0.7),
        }  # fmt: skip
        assert gaps(scores)["generation"] == {
            "rouge_l": 0.5, "factuality": 1.0, "total": pytest.approx(0.25 * 0.5 + 0.75 * 0.1),
        }  # fmt: skip
        assert "total" not in published_scores(paper, answers, {("target", 0): 10.0})["forget"]["generation"]

    def test_other_wordings_are_a_side_of_their_own_and_utility_and_documents_none(self) -> None:
        free = asked(FREE, "clear lungs")
        document = Record(NODE, "", "", text="a plain document")
        groups: Mapping[str, Any] = {
            "target": (1, 2, [free, document]), "target_phrasing 2": (2, 1, [free]), UTILITY: (0, 1, [free]),
        }  # fmt: skip
        answers = {"target": ["clear lungs", ""], "target_phrasing 2": [""], UTILITY: [""]}
        scores = published_scores(exam(**groups), sitting(**answers))
        assert {side: one["generation"]["rouge_l"] for side, one in scores.items()} == {"forget": 1.0, "rephrased": 0.0}
        assert gaps(scores) == {}

    def test_tasks_are_told_by_the_form_of_their_question(self) -> None:
        assert [task_of(one) for one in (CLOZE, CHOICE, FREE, "A) or B)?")] == [
            "cloze", "classification", "generation", "generation",
        ]  # fmt: skip
