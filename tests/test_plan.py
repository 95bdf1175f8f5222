"""The plan: what of the target also stands in retained records is said beforehand, by line and never by content."""

import re
from pathlib import Path
from typing import Any

import pytest
from edits import request
from hypothesis import given
from hypothesis import strategies as st
from tiny_records import split_of, write_image, write_lines

from chip.hierarchy import Hierarchy, Record
from chip.plan import overlap_warnings
from chip.workflow import prepare_edit


def record(path: str, question: str, answer: str, image: str | None = None) -> dict[str, Any]:
    return {"path": path.split("/"), "question": question, "answer": answer, "image": image}


def warnings_of(directory: Path, target: str, *records: dict[str, Any]) -> str:
    """All warnings about a target in one text."""
    return "\n".join(overlap_warnings(*split_of(write_lines(directory, *records), target)))


def stands(phrase: str, record: Record) -> bool:
    """Whether words stand in a record one after the other."""
    return f" {phrase} " in f" {record.question} {record.answer} "


SAID = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4).map(" ".join)
OWN = record("inst_0/patient_1", "who is patient_1 ?", "Sonia Garner")
OTHER = record("inst_0/patient_2", "who is patient_2 ?", "Ada Lake")


class TestOverlap:
    def test_nothing_in_common_is_no_warning(self, tmp_path: Path) -> None:
        assert warnings_of(tmp_path, "patient_1", OWN, OTHER) == ""

    @pytest.mark.parametrize(
        "mention", ["sibling of patient_1", "Patient_1 again", "see patient_1.", "(patient_1)", "patient_1"]
    )
    def test_names_in_retained_records(self, tmp_path: Path, mention: str) -> None:
        said = warnings_of(tmp_path, "patient_1", OWN, OTHER, record("inst_1", mention, "nobody"))
        assert "names of the target also stand in retained records (line 3)" in said

    def test_a_longer_name_is_another_name(self, tmp_path: Path) -> None:
        assert warnings_of(tmp_path, "patient_1", OWN, record("inst_0/patient_12", "who is patient_12 ?", "Ada")) == ""

    def test_names_that_retained_nodes_bear_too_are_no_warning(self, tmp_path: Path) -> None:
        own = record("inst_0/patient_1/study_1/FINDINGS", "what are the FINDINGS ?", "clear lungs")
        other = record("inst_0/patient_2/study_2/FINDINGS", "what are the FINDINGS ?", "mild edema")
        assert warnings_of(tmp_path, "patient_1", own, other) == ""

    def test_names_below_the_target_count(self, tmp_path: Path) -> None:
        own = record("inst_0/patient_1/study_9", "when ?", "today")
        said = warnings_of(tmp_path, "patient_1", own, record("inst_0/patient_2", "compare with study_9 ?", "worse"))
        assert "line 2" in said

    def test_names_in_plain_documents(self, tmp_path: Path) -> None:
        said = warnings_of(tmp_path, "patient_1", OWN, {"path": ["inst_1"], "text": "a letter about patient_1"})
        assert "line 2" in said

    def test_answers_in_common_are_counted_and_not_printed(self, tmp_path: Path) -> None:
        second = record("inst_0/patient_1", "what is found ?", "Clear  lungs")
        said = warnings_of(tmp_path, "patient_1", OWN, second, OTHER, record("inst_1", "and here ?", "clear lungs"))
        assert "1 of the target's 2 answers also stand in retained records (line 4)" in said
        assert "lungs" not in said.lower()

    def test_images_in_common_by_content(self, tmp_path: Path) -> None:
        for name in ("a.png", "copy.png"):
            write_image(tmp_path / name, 0)
        write_image(tmp_path / "b.png", 1)
        own = [record("i/p1", "who ?", "x y", "a.png"), record("i/p1", "when ?", "z", "b.png")]
        said = warnings_of(tmp_path, "p1", *own, record("i/p2", "whom ?", "w", "copy.png"))
        assert "1 of the target's 2 images are also shown by retained records (line 3)" in said

    def test_many_lines_are_counted(self, tmp_path: Path) -> None:
        many = [record(f"inst_{i}", "like patient_1 ?", f"number {i}") for i in range(2, 12)]
        said = warnings_of(tmp_path, "patient_1", OWN, *many)
        assert "lines 2, 3, 4, 5, 6 and 5 more" in said

    @given(st.lists(st.tuples(st.sampled_from(["p1", "p2", "p3"]), SAID, SAID), min_size=2, max_size=12))
    def test_records_are_found_by_their_words_as_by_looking_through_all_of_them(
        self, told: list[tuple[str, str, str]]
    ) -> None:
        """Whether or not other records were forgotten before."""
        records = [Record(("ward", name), *said, line=line) for line, (name, *said) in enumerate(told, 1)]
        records += [Record(("ward", "p1"), "a b", "b c d", line=98), Record(("ward", "p4"), "b", "a b", line=99)]
        everything = Hierarchy(("ward", "patient"), records)
        for left in (everything, everything.without([("ward", "p3")])):
            split = left.split([("ward", "p1")])
            answers = {left.records[i].answer for i in split.target if len(left.records[i].answer) >= 3}
            lines = [left.records[i].line for i in split.retain if any(stands(one, left.records[i]) for one in answers)]
            (found,) = [*(one for one in overlap_warnings(left, split) if "answers also" in one), ""][:1]
            assert re.findall(r"\d+(?=[, )])", found.partition("(line")[2])[:5] == [str(line) for line in lines[:5]]

    def test_names_are_taken_literally(self, tmp_path: Path) -> None:
        own = record("inst_0/a.c(", "who ?", "x")
        assert warnings_of(tmp_path, "a.c(", own, record("inst_0/q", "abc( ?", "y")) == ""
        assert "line 2" in warnings_of(tmp_path, "a.c(", own, record("inst_0/q", "is it a.c( ?", "y"))

    def test_targets_of_different_depth_do_not_lend_each_other_their_ancestors(self, tmp_path: Path) -> None:
        """inst_1 is no name of the target study_5 beneath it, whatever else is to be forgotten."""
        records = (
            record("inst_0", "who leads ?", "a"),
            record("inst_1/patient_3/study_5", "when ?", "b"),
            record("inst_2", "how far is patient_3 ?", "c"),
        )
        hierarchy, split = split_of(write_lines(tmp_path, *records), "inst_0", "study_5")
        assert overlap_warnings(hierarchy, split) == []


class TestPlan:
    def test_it_says_what_will_be_touched_and_touches_nothing(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        plan = prepare_edit(request(llava_directory, hospital_data, tmp_path / "out", "patient_1", method="chip")).plan
        assert plan.targets == ("inst_0/patient_1",)
        assert plan.records == {"target": 8, "siblings": 8, "shared": 1, "rest": 17}
        assert (plan.family, plan.device, plan.dtype, plan.method) == ("llava", "cpu", "float32", "chip")
        assert len(plan.sites) == 5
        projector, layer = 16 * 32 + 32 + 32 * 32 + 32, 3 * 32 * 64
        assert plan.parameters == projector + layer
        assert plan.receipt == tmp_path / "out.receipt.json"
        assert not list(tmp_path.iterdir())
        assert plan.as_json()["out"] == str(tmp_path / "out")

    def test_it_never_prints_what_records_say(self, tmp_path: Path, llava_directory: Path, hospital_data: Path) -> None:
        prepared = prepare_edit(request(llava_directory, hospital_data, tmp_path / "out", "patient_1"))
        said = str(prepared.plan.as_json())
        for one in prepared.hierarchy.records:
            assert one.question not in said
            assert one.answer not in said
