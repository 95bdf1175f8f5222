"""The published parquet layout: records go through it and come back, and what is malformed is told in one sentence."""

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from chip.errors import ChipError
from chip.hierarchy import Hierarchy, is_under
from chip.medforget.unpack import unpack
from chip.records import read_records, write_records
from chip.records.digests import asked_digest, image_digest
from chip.records.jsonl import DEFAULT_LEVELS
from chip.records.parquet import ForgetSet, write_parquet
from chip.records.parquet_rows import find_sets, read_rows
from tests.command_line import chip_here
from tests.tiny_records import hospital_records, write_hospital, write_image

SETS = (
    ForgetSet("institution", "all", (("inst_0",),)),
    ForgetSet("patient", "all", (("inst_0", "patient_1"), ("inst_1", "patient_2"))),
    ForgetSet("study", "all", (("inst_0", "patient_0", "study_0_1"),)),
    ForgetSet("section", "all", (("inst_0", "patient_0", "study_0_1", "FINDINGS"),)),
)


def said(hierarchy: Hierarchy) -> Counter[tuple[object, ...]]:
    """All that records hold, images by their content, in any order."""
    return Counter(
        (
            one.path,
            one.question,
            one.answer,
            one.paraphrases,
            one.options,
            one.translations,
            *map(image_digest, one.images),
        )
        for one in hierarchy.records
    )


def png(seed: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("L", (4, 4), seed).save(content, "PNG")
    return content.getvalue()


def row(**cells: Any) -> dict[str, Any]:
    """One well-formed row, but for the cells given."""
    ids = {"institution_id": "inst_0", "patient_id": "p_1", "study_id": "s_2", "section_name": "FINDINGS"}
    return {
        "image": {"bytes": png()},
        "image_path": "inst_0/p_1/s_2/a.png",
        "metadata": json.dumps([{"Question": "what is seen ?", "Answer": "clear lungs"}]),
        "hierarchy_metadata": json.dumps(ids),
        "ID": "1",
        **cells,
    }


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def test_records_that_went_through_the_layout_are_the_records(tmp_path: Path) -> None:
    hierarchy = read_records(write_hospital(tmp_path / "records"))
    write_parquet(tmp_path / "parquet", hierarchy, SETS)
    done = unpack(tmp_path / "parquet", tmp_path / "back", strict=True)
    assert said(read_records(tmp_path / "back")) == said(hierarchy)
    assert done.records == len(hierarchy.records)
    assert json.loads((tmp_path / "back" / "splits.json").read_text())["levels"] == {
        one.level: [{"name": "all", "forget": ["/".join(node) for node in one.nodes]}] for one in SETS
    }


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(str.strip)
NAME = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=6)


@st.composite
def any_record(draw: st.DrawFn) -> dict[str, Any]:
    record: dict[str, Any] = {
        "path": draw(st.lists(NAME, min_size=1, max_size=4)),
        "image": draw(st.sampled_from([None, "images/0.png", "images/1.png", "images/2.png"])),
        "question": draw(TEXT),
        "answer": draw(TEXT),
        "paraphrases": draw(st.lists(TEXT, max_size=3)),
    }
    others = draw(st.lists(TEXT, max_size=3))
    options = {" ".join(one.split()): one for one in (*others, record["answer"])}
    if len(options) > 1:
        record["options"] = list(options.values())
    if draw(st.booleans()):
        record["translations"] = {"de": draw(TEXT)}
    return record


@given(records=st.lists(any_record(), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_records_hold_comes_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    directory = tmp_path_factory.mktemp("any")
    for number in range(3):
        write_image(directory / "records" / "images" / f"{number}.png", number, side=2)
    write_records(directory / "records", DEFAULT_LEVELS, [*records, records[0]])
    hierarchy = read_records(directory / "records")
    forget = ForgetSet("institution", "all", (hierarchy.records[0].path[:1],))
    write_parquet(directory / "parquet", hierarchy, [forget])
    unpack(directory / "parquet", directory / "back", strict=True)
    assert said(read_records(directory / "back")) == said(hierarchy)


def test_every_level_holds_all_records_divided_by_its_nodes(tmp_path: Path) -> None:
    hierarchy = read_records(write_hospital(tmp_path / "records"))
    write_parquet(tmp_path / "parquet", hierarchy, SETS)
    for one in SETS:
        folder = tmp_path / "parquet" / f"{one.level}_level"
        counts = {}
        for side in ("forget", "retain"):
            rows = list(read_rows(folder / f"{side}_set_all.parquet", refuse))
            counts[side] = sum(len(found.asked) for found in rows)
            for found in rows:
                assert any(is_under(found.path, node) for node in one.nodes) == (side == "forget")
        assert counts["forget"] + counts["retain"] == len(hierarchy.records)


def refuse(kind: str, where: str) -> None:
    raise AssertionError(f"{kind}: {where}")


def test_the_columns_are_the_published_ones(tmp_path: Path) -> None:
    """As the authors' own code opens them: one image a row, its pairs as JSON, ids that their hierarchy is built of."""
    hierarchy = read_records(write_hospital(tmp_path / "records"))
    write_parquet(tmp_path / "parquet", hierarchy, SETS[1:2])
    table = pyarrow.parquet.read_table(tmp_path / "parquet" / "patient_level" / "forget_set_all.parquet")
    assert table.column_names == ["image", "image_path", "metadata", "hierarchy_metadata", "ID"]
    rows = table.to_pylist()
    assert len({one["ID"] for one in rows}) == len(rows)
    for one in rows:
        ids = json.loads(one["hierarchy_metadata"])
        assert all(pair["Question"] and pair["Answer"] for pair in json.loads(one["metadata"]))
        assert "institution_id" in ids
        assert ids["hierarchy_level"] in DEFAULT_LEVELS
        if one["image"]["bytes"] is not None:
            Image.open(io.BytesIO(one["image"]["bytes"])).load()
            assert one["image_path"].split("/")[:-1] == [*ids.values()][:-1][:3]


def test_wordings_for_evaluation_and_for_training_go_beside_the_published_keys(tmp_path: Path) -> None:
    records = [{**one, "paraphrases": [f"{one['question']} again"]} for one in hospital_records()]
    write_hospital(tmp_path / "records")
    write_records(tmp_path / "records", DEFAULT_LEVELS, records)
    hierarchy = read_records(tmp_path / "records")
    trained = [{**one, "question": f"trained: {one['question']}", "paraphrases": ["another"]} for one in records]
    write_records(tmp_path / "records", DEFAULT_LEVELS, trained)
    training = read_records(tmp_path / "records")
    write_parquet(tmp_path / "parquet", hierarchy, SETS, training)
    unpack(tmp_path / "parquet", tmp_path / "back", strict=True)
    assert said(read_records(tmp_path / "back")) == said(hierarchy)
    (tmp_path / "back" / "training.jsonl").rename(tmp_path / "back" / "records.jsonl")
    assert said(read_records(tmp_path / "back")) == said(training)
    with pytest.raises(ChipError, match="same records in the same order"):
        write_parquet(tmp_path / "other", hierarchy, SETS, Hierarchy(DEFAULT_LEVELS, training.records[1:]))


def test_several_forget_sets_of_a_level_stand_in_folders_of_their_names(tmp_path: Path) -> None:
    hierarchy = read_records(write_hospital(tmp_path / "records"))
    sets = [
        ForgetSet("patient", name, ((inst, name),)) for inst, name in (("inst_0", "patient_0"), ("inst_1", "patient_3"))
    ]
    write_parquet(tmp_path / "parquet", hierarchy, sets)
    assert {(one.level, one.name, one.side) for one in find_sets(tmp_path / "parquet")} == {
        ("patient", name, side) for name in ("patient_0", "patient_3") for side in ("forget", "retain")
    }
    unpack(tmp_path / "parquet", tmp_path / "back", strict=True)
    assert json.loads((tmp_path / "back" / "splits.json").read_text())["levels"] == {
        "patient": [{"name": one.name, "forget": ["/".join(*one.nodes)]} for one in sets]
    }


def test_an_image_is_stored_once_with_its_bytes_as_they_are(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.new("L", (8, 8), 7).save(jpeg, "JPEG")
    ids = json.dumps({"institution_id": 1, "patient_id": 22})
    write_rows(
        tmp_path / "a.parquet", row(), row(ID="2", hierarchy_metadata=ids), row(image={"bytes": jpeg.getvalue()})
    )
    done = unpack(tmp_path / "a.parquet", tmp_path / "out", strict=True)
    assert done.images == 2
    stored = {path.suffix: path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()}
    assert stored == {".png": png(), ".jpg": jpeg.getvalue()}
    assert ("1", "22") in read_records(tmp_path / "out").paths
    assert not (tmp_path / "out" / "splits.json").exists()


def test_an_answer_in_several_pieces_is_one_text(tmp_path: Path) -> None:
    pairs = [{"Question": "which ?", "Answer": ["left", "", "effusion"]}, {"Question": "how many ?", "Answer": 2}]
    write_rows(tmp_path / "a.parquet", row(metadata=json.dumps(pairs)))
    unpack(tmp_path / "a.parquet", tmp_path / "out", strict=True)
    assert [one.answer for one in read_records(tmp_path / "out").records] == ["left effusion", "2"]


def ids(**values: Any) -> str:
    return json.dumps({"institution_id": "i", "patient_id": "p", **values})


MALFORMED: Sequence[tuple[dict[str, Any], str]] = (
    ({"metadata": "{"}, "metadata is no JSON"),
    ({"metadata": "[" * 100_000}, "metadata is no JSON"),
    ({"metadata": "[]"}, "without questions and answers"),
    ({"metadata": None}, "without questions and answers"),
    ({"metadata": '[{"Question": "a secret"}]'}, "without a question or an answer"),
    ({"metadata": '["a secret"]'}, "without a question or an answer"),
    ({"metadata": '[{"Question": ["a secret"], "Answer": "b"}]'}, '"question" must be text'),
    ({"metadata": '[{"Question": "a secret", "Answer": "\\ud800"}]'}, '"answer" must be text'),
    ({"metadata": '[{"Question": "a secret", "Answer": "b", "Options": ["c", "d"]}]'}, "does not hold the answer"),
    ({"metadata": '[{"Question": "a secret", "Answer": "b", "Training": "c"}]'}, "must be a list of questions"),
    ({"hierarchy_metadata": "no"}, "hierarchy_metadata is no JSON"),
    ({"hierarchy_metadata": "3"}, "without an object"),
    ({"hierarchy_metadata": "{}"}, "leaves out an id"),
    ({"hierarchy_metadata": ids(patient_id=None, study_id="s")}, "leaves out an id"),
    ({"hierarchy_metadata": ids(patient_id=["x"])}, "neither text nor a number"),
    ({"hierarchy_metadata": ids(patient_id="a/b")}, 'holds "/"'),
    ({"hierarchy_metadata": ids(patient_id="a\nb")}, "control characters"),
    ({"hierarchy_metadata": ids(hierarchy_level="study")}, "no level that they have an id of"),
    ({"hierarchy_metadata": ids(hierarchy_level=[1])}, "no level that they have an id of"),
    ({"image": {"bytes": b"no image"}}, "no known format"),
    ({"image": {"bytes": png()[:-24]}}, "do not decode"),
)


@pytest.mark.parametrize(("cells", "kind"), MALFORMED)
def test_a_malformed_row_is_counted_and_under_strict_an_error(tmp_path: Path, cells: dict[str, Any], kind: str) -> None:
    write_rows(tmp_path / "a.parquet", row(), row(**cells))
    done = unpack(tmp_path / "a.parquet", tmp_path / "out")
    assert done.records == 1
    (found,) = done.problems.as_json().items()
    assert kind in found[0]
    assert found[1]["count"] == 1
    assert "a.parquet, row 2" in found[1]["examples"][0]
    with pytest.raises(ChipError, match="--strict") as refused:
        unpack(tmp_path / "a.parquet", tmp_path / "strict", strict=True)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "strict").exists()


def test_a_file_that_is_no_such_parquet_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    whole = write_rows(tmp_path / "in" / "a.parquet", row()).read_bytes()
    for content in (b"", b"PAR1", b"no parquet at all", whole[: len(whole) // 2], whole[:-12] + bytes(8) + whole[-4:]):
        (tmp_path / "in" / "a.parquet").write_bytes(content)
        with pytest.raises(ChipError, match="cannot be read as parquet"):
            unpack(tmp_path / "in", tmp_path / "out")
    write_rows(tmp_path / "in" / "a.parquet", {"image": {"bytes": png()}, "metadata": "[]"})
    with pytest.raises(ChipError, match="no column hierarchy_metadata"):
        unpack(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.parquet").unlink()
    with pytest.raises(ChipError, match="holds no parquet files"):
        unpack(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_nodes_on_both_sides_are_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "patient_level" / "forget_set_all.parquet", row(), row(hierarchy_metadata=ids(patient_id="")))
    write_rows(tmp_path / "patient_level" / "retain_set_all.parquet", row(ID="9"))
    kinds = " ".join(unpack(tmp_path, tmp_path / "out").problems.counts)
    assert "both forgotten and retained, in patient_level" in kinds
    assert "above the level that is forgotten" in kinds


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"path": ["i"], "text": "a document"}, "a document"),
        ({"path": ["i"], "question": "q", "answer": "a", "images": ["0.png", "1.png"]}, "several images"),
    ],
)
def test_what_the_layout_has_no_place_for_is_refused(tmp_path: Path, record: dict[str, Any], why: str) -> None:
    for number in range(2):
        write_image(tmp_path / "records" / f"{number}.png", number)
    write_records(tmp_path / "records", DEFAULT_LEVELS, [record])
    with pytest.raises(ChipError, match=why):
        write_parquet(tmp_path / "parquet", read_records(tmp_path / "records"), SETS)
    assert not (tmp_path / "parquet").exists()


def test_sets_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    hierarchy = read_records(write_hospital(tmp_path / "records"))
    for sets, why in (
        ((SETS[0], SETS[0]), "give each its own name"),
        ((ForgetSet("patient", "..", ()), SETS[1]), "cannot be the name of a folder"),
        ((ForgetSet("ward", "all", ()),), "of level 'ward'"),
    ):
        with pytest.raises(ChipError, match=why):
            write_parquet(tmp_path / "parquet", hierarchy, [*sets])
    with pytest.raises(ChipError, match="has the levels institution, patient"):
        write_parquet(tmp_path / "parquet", Hierarchy(("a", "b", "c", "d"), hierarchy.records), SETS)


def test_a_parquet_folder_given_as_data_says_what_to_run(tmp_path: Path) -> None:
    hierarchy = read_records(write_hospital(tmp_path / "records"))
    write_parquet(tmp_path / "parquet", hierarchy, SETS)
    with pytest.raises(ChipError, match=r"run `chip medforget unpack .*parquet --out DIR`"):
        read_records(tmp_path / "parquet")


def test_unpack_on_the_command_line_tells_what_it_made_and_left_out(tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "a.parquet", row(), row(metadata="{"))
    done = chip_here("medforget", "unpack", tmp_path / "in", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["records"], result["images"]) == (1, 1)
    assert "rows whose metadata is no JSON: 1, such as" in done.stderr
    again = chip_here("medforget", "unpack", tmp_path / "in", "--out", tmp_path / "out")
    assert isinstance(again.exception, ChipError)
    assert "exists already" in str(again.exception)


def test_the_same_records_make_the_same_bytes(tmp_path: Path) -> None:
    hierarchy = read_records(write_hospital(tmp_path / "records"))
    for name in ("one", "two"):
        write_parquet(tmp_path / name, hierarchy, SETS)
    for path in (tmp_path / "one").rglob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    assert asked_digest(read_records(tmp_path / "records")) == asked_digest(hierarchy)


def test_records_need_neither_torch_nor_pyarrow_to_be_imported() -> None:
    code = (
        "import sys, chip.records.parquet_rows, chip.medforget.unpack;"
        "print(sorted({'torch', 'pyarrow', 'transformers'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
