"""What must hold of forget and retain sets, whatever the hierarchy, the sizes and the seed."""

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest
from command_line import chip, chip_here
from hypothesis import given, settings
from hypothesis import strategies as st

from chip.errors import ChipError, UsageError
from chip.hierarchy import Hierarchy, NodePath, Record
from chip.medforget.splits import (
    FEWEST_SIBLINGS,
    ForgetSet,
    Sizes,
    Splits,
    divide,
    kept_siblings,
    members,
    read_sizes,
    read_splits,
    refuse_unsound,
    write_splits,
)  # fmt: skip
from chip.records import write_records

LEVELS = ("institution", "patient", "study", "section")


def hospital(institutions: int = 3, patients: int = 4, studies: int = 3, sections: int = 3) -> Hierarchy:
    records = []
    for i in range(institutions):
        records.append(Record((f"i{i}",), "which code?", f"code {i}"))
        for p in range(patients):
            records.append(Record((f"i{i}", f"p{i}{p}"), "who?", f"p{i}{p}"))
            for s in range(studies):
                records += [
                    Record((f"i{i}", f"p{i}{p}", f"s{i}{p}{s}", f"SECTION {n}"), "what?", "text")
                    for n in range(sections)
                ]
    return Hierarchy(LEVELS, records)


@st.composite
def hospitals(draw: st.DrawFn) -> Hierarchy:
    return hospital(*(draw(st.integers(1, 5)) for _ in range(4)))


counts = st.one_of(st.integers(1, 6), st.sampled_from([Fraction(1, 10), Fraction(1, 2)]))
sizes = st.builds(Sizes, st.lists(counts, min_size=1, max_size=3).map(tuple), st.booleans())


class TestInvariants:
    @given(hospitals(), sizes, st.integers(0, 5))
    @settings(max_examples=60, deadline=None)
    def test_every_target_keeps_two_retained_siblings(self, records: Hierarchy, wanted: Sizes, seed: int) -> None:
        for level, sets in divide(records, wanted, seed).levels.items():
            depth = LEVELS.index(level) + 1
            for one in sets:
                for node in one.forget:
                    beside = {n for n in records.nodes if len(n) == depth and n[:-1] == node[:-1]} - set(one.forget)
                    assert len(beside) >= FEWEST_SIBLINGS

    @given(hospitals(), sizes, st.integers(0, 5))
    @settings(max_examples=60, deadline=None)
    def test_a_node_takes_its_descendants_and_leaves_its_ancestors(
        self, records: Hierarchy, wanted: Sizes, seed: int
    ) -> None:
        for sets in divide(records, wanted, seed).levels.values():
            for one in sets:
                gone = members(records, one.forget)
                for place, record in enumerate(records.records):
                    under = any(record.path[: len(node)] == node for node in one.forget)
                    assert (place in gone) == under
                    if any(node[: len(record.path)] == record.path and node != record.path for node in one.forget):
                        assert place not in gone

    @given(hospitals(), sizes, st.integers(0, 5))
    @settings(max_examples=60, deadline=None)
    def test_sets_are_nested_or_disjoint(self, records: Hierarchy, wanted: Sizes, seed: int) -> None:
        for sets in divide(records, wanted, seed).levels.values():
            chosen = [set(one.forget) for one in sets]
            for place, one in enumerate(chosen):
                for other in chosen[place + 1 :]:
                    assert not one & other if wanted.disjoint else one < other
            assert len({one.name for one in sets}) == len(sets)

    @given(hospitals(), sizes, st.integers(0, 5))
    @settings(max_examples=40, deadline=None)
    def test_what_is_no_target_is_named_with_the_reason(self, records: Hierarchy, wanted: Sizes, seed: int) -> None:
        made = divide(records, wanted, seed)
        for level, sets in made.levels.items():
            for node, why in made.passed_over[level].items():
                assert not any(node in one.forget for one in sets)
                assert "siblings would be retained" in why

    def test_the_order_of_the_records_does_not_matter_and_the_seed_does(self) -> None:
        records = hospital()
        shuffled = list(records.records)
        random.Random(1).shuffle(shuffled)
        first = divide(records, Sizes((2,)))
        assert divide(Hierarchy(LEVELS, shuffled), Sizes((2,))) == first
        assert any(divide(records, Sizes((2,)), seed) != first for seed in range(1, 4))

    def test_a_share_is_of_the_levels_nodes(self) -> None:
        made = divide(hospital(), Sizes((Fraction(1, 4),)))
        assert {level: len(sets[0].forget) for level, sets in made.levels.items()} == {
            "institution": 1, "patient": 3, "study": 9, "section": 27,
        }  # fmt: skip


class TestOwnership:
    @pytest.fixture
    def sharing(self, tmp_path: Path) -> Hierarchy:
        """A hospital in which every study shows its own image, but two patients share one."""
        records = []
        for record in hospital(sections=3).records:
            if len(record.path) < 3:
                records.append(record)
                continue
            study = "s000" if record.path[2] == "s010" else record.path[2]
            image = tmp_path / f"{study}.png"
            image.write_bytes(study.encode())
            records.append(Record(record.path, record.question, record.answer, (image,)))
        return Hierarchy(LEVELS, records)

    def test_no_image_is_on_both_sides_at_patient_level_and_above(self, sharing: Hierarchy) -> None:
        for seed in range(6):
            made = divide(sharing, Sizes((2,)), seed)
            for level in ("institution", "patient"):
                for one in made.levels[level]:
                    gone = members(sharing, one.forget)
                    forgotten, retained = (
                        {image.read_bytes() for i in some for image in sharing.records[i].images}
                        for some in (gone, set(range(len(sharing.records))) - gone)
                    )
                    assert not forgotten & retained
            assert {node[-1] for node in made.passed_over["patient"]} <= {"p00", "p01"}

    def test_a_set_that_breaks_a_rule_is_refused_by_name(self, sharing: Hierarchy) -> None:
        with pytest.raises(ChipError, match=r"i0/p00 cannot be forgotten at level patient: .* one of its images"):
            refuse_unsound(sharing, "patient", [("i0", "p00")])
        refuse_unsound(sharing, "study", [("i0", "p00", "s000")])
        every: list[NodePath] = [("i0", f"p0{number}") for number in range(3)]
        with pytest.raises(ChipError, match="1 of its siblings would be retained"):
            refuse_unsound(hospital(), "patient", every)
        with pytest.raises(ChipError, match="i9 is no institution"):
            refuse_unsound(hospital(), "institution", [("i9",)])

    def test_a_study_that_two_patients_have_passes_both_over(self) -> None:
        copied = [
            Record(("i1", "p10", *one.path[2:]), one.question, one.answer)
            for one in hospital().records
            if "s000" in one.path
        ]
        records = Hierarchy(LEVELS, [*hospital().records, *copied])
        for node in (("i0", "p00"), ("i1", "p10")):
            with pytest.raises(ChipError, match="its study s000 stands under another node that would be retained"):
                refuse_unsound(records, "patient", [node])
            for seed in range(6):
                assert node not in divide(records, Sizes((2,)), seed).levels["patient"][0].forget
        refuse_unsound(records, "patient", [("i0", "p00"), ("i1", "p10")])

    def test_studies_that_are_only_called_alike_are_two(self) -> None:
        records = [
            Record((*one.path[:2], f"study_{one.path[2][-1]}", *one.path[3:]), one.question, f"{one.path}")
            if len(one.path) > 2
            else one
            for one in hospital().records
        ]
        assert not divide(Hierarchy(LEVELS, records), Sizes((2,))).passed_over["patient"]

    def test_the_loneliest_target_says_how_many_siblings_are_kept(self) -> None:
        assert (
            kept_siblings(
                hospital(), [ForgetSet("a", (("i0", "p00"), ("i0", "p01"))), ForgetSet("b", (("i1", "p10"),))]
            )
            == 2
        )
        assert kept_siblings(hospital(), [ForgetSet("c", (("i0",), ("i1",)))]) == 1


WITHOUT_NODES = '{"format": "chip-medforget-splits-1", "levels": {"patient": [{"name": "1"}]}}'
WITHOUT_LIST = '{"format": "chip-medforget-splits-1", "levels": {"patient": [{"name": "1", "forget": "p"}]}}'


class TestFiles:
    def test_splits_are_read_as_they_were_written(self, tmp_path: Path) -> None:
        made = divide(hospital(), read_sizes("1,0.5"))
        write_splits(tmp_path / "splits.json", made)
        assert read_splits(tmp_path / "splits.json") == Splits(made.levels)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}', WITHOUT_NODES, WITHOUT_LIST])
    def test_another_file_is_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "splits.json").write_text(content)
        with pytest.raises(ChipError, match="holds no splits of the form"):
            read_splits(tmp_path / "splits.json")

    def test_a_set_is_found_by_level_and_name(self) -> None:
        splits = Splits(
            {"patient": (ForgetSet("1-of-4", (("i", "p"),)), ForgetSet("2-of-4", (("i", "p"), ("i", "q"))))}
        )
        assert splits.chosen("patient").name == "1-of-4"
        assert splits.chosen("patient", "2-of-4").name == "2-of-4"
        with pytest.raises(UsageError, match="there are 1-of-4, 2-of-4"):
            splits.chosen("patient", "3-of-4")
        with pytest.raises(UsageError, match="there are sets for patient"):
            splits.chosen("study")

    @pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "a", "1,,2", "0.0", "1e9x", "."])
    def test_sizes_that_mean_nothing_are_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="--sizes"):
            read_sizes(text)


def refusal(*arguments: object) -> str:
    """What a command that fails says of it."""
    failed = chip_here(*arguments)
    assert isinstance(failed.exception, ChipError), failed.output
    return str(failed.exception)


class TestVerb:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        lines = [{"path": list(one.path), "question": one.question, "answer": one.answer} for one in hospital().records]
        write_records(tmp_path / "data", LEVELS, lines)
        return tmp_path / "data"

    def test_it_writes_what_it_says(self, data: Path) -> None:
        said = json.loads(chip("medforget", "split", data, "--sizes", "1", "--json").stdout)
        written = json.loads((data / "splits.json").read_text())
        assert said["levels"] == written["levels"]
        assert set(written["levels"]) == set(LEVELS)

    def test_it_replaces_nothing_unless_told_to(self, data: Path) -> None:
        chip("medforget", "split", data)
        assert "replace it with --force" in refusal("medforget", "split", data)
        chip("medforget", "split", data, "--force", "--level", "patient")
        assert set(json.loads((data / "splits.json").read_text())["levels"]) == {"patient"}

    def test_a_level_that_is_not_there_is_refused(self, data: Path) -> None:
        assert "'ward' is none of institution" in refusal("medforget", "split", data, "--level", "ward")
