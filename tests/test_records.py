"""Records on disk: everything malformed is named by file and line before a model is touched, nothing is guessed."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from tiny_records import LEVELS, hospital_records, write_hospital, write_image, write_lines

from chip.errors import ChipError
from chip.hierarchy import Record
from chip.images import open_images
from chip.models.prompts import Prompts
from chip.records import read_records, write_records
from chip.records.digests import image_digest, record_digest

GOOD = {"path": ["inst_0", "patient_0"], "image": None, "question": "who ?", "answer": "nobody"}
SECRET = "confidential finding"


def with_changes(**values: Any) -> dict[str, Any]:
    """A good record with some of its values changed."""
    return {**GOOD, "question": SECRET, **values}


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key not in keys}


class TestMalformed:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"path": ["a"], "question"', "not a JSON object"),
            ("[1, 2]", "not a JSON object"),
            ('"text"', "not a JSON object"),
            (b'{"path": ["\xff\xfe"]}', "not a JSON object"),
            (without("path"), '"path" must be a list'),
            (with_changes(path="inst_0"), '"path" must be a list'),
            (with_changes(path=[]), '"path" must be a list'),
            (with_changes(path=["a", ""]), "must be text that is not empty"),
            (with_changes(path=["a", "  "]), "must be text that is not empty"),
            (with_changes(path=["a", 7]), "must be text that is not empty"),
            (with_changes(path=["a", None]), "must be text that is not empty"),
            (with_changes(path=["a", "b\u001b[31m"]), "control characters"),
            (with_changes(path=["a\n", "b"]), "control characters"),
            (with_changes(path=list("abcde")), "5 names, but there are only 4 levels"),
            (with_changes(question=""), '"question" must be text that is not empty'),
            (with_changes(question="  \n"), '"question" must be text that is not empty'),
            (with_changes(question=3), '"question" must be text that is not empty'),
            (with_changes(answer=""), '"answer" must be text that is not empty'),
            (without("answer"), '"answer" must be text that is not empty'),
            (with_changes(image="images/none.png"), "'images/none.png' is not there"),
            (with_changes(image="images"), "'images' is not there"),
            (with_changes(image="../outside.png"), "lies outside the data directory"),
            (with_changes(image="/etc/hostname"), "lies outside the data directory"),
            (with_changes(image=""), "must be the name of a file"),
            (with_changes(image=5), "must be the name of a file"),
            (with_changes(images="images/a.png"), "must be the name of a file"),
            (with_changes(image="images/a.png", images=["images/a.png"]), 'both "image" and "images"'),
            (with_changes(paraphrases="who"), '"paraphrases" must be a list of questions'),
            (with_changes(paraphrases=["who", ""]), '"paraphrases" must be a list of questions'),
            ({"path": ["a"], "text": ""}, '"text" must be text that is not empty'),
            ({"path": ["a"], "text": ["b"]}, '"text" must be text that is not empty'),
            ({"path": ["a"], "text": "b", "answer": "c"}, 'both "text" and "answer"'),
        ],
    )
    def test_the_error_names_file_and_line_and_no_content(
        self, tmp_path: Path, line: dict[str, Any] | str | bytes, message: str
    ) -> None:
        data = write_lines(tmp_path / "data", GOOD, "", line, GOOD)
        write_image(data / "images/a.png", 0)
        write_image(tmp_path / "outside.png", 1)
        with pytest.raises(ChipError) as caught:
            read_records(data)
        assert f"{data / 'records.jsonl'}, line 3: " in str(caught.value)
        assert message in str(caught.value)
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_link_that_leads_outside_is_refused(self, tmp_path: Path) -> None:
        write_image(tmp_path / "outside.png", 0)
        data = write_lines(tmp_path / "data", with_changes(image="inside.png"))
        (data / "inside.png").symlink_to(tmp_path / "outside.png")
        with pytest.raises(ChipError, match=r"line 1: .*lies outside"):
            read_records(data)

    def test_an_image_name_with_a_null_byte_is_refused(self, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "data", with_changes(image="a\u0000.png"))
        with pytest.raises(ChipError, match="line 1: "):
            read_records(data)

    def test_an_image_name_too_long_for_any_file_is_refused(self, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "data", with_changes(image="a" * 5000 + ".png"))
        with pytest.raises(ChipError, match="line 1: "):
            read_records(data)

    def test_a_name_with_the_separator_of_paths_is_refused(self, tmp_path: Path) -> None:
        """Otherwise `a/b` at depth one and `a`, `b` at depth two could not be told apart when they are named."""
        data = write_lines(tmp_path / "data", with_changes(path=["a/b"]), with_changes(path=["a", "b"]))
        with pytest.raises(ChipError, match="line 1: "):
            read_records(data)

    def test_deeply_nested_json_is_refused(self, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "data", "[" * 100_000)
        with pytest.raises(ChipError, match="line 1: "):
            read_records(data)

    @pytest.mark.parametrize("content", ["", "\n\n  \n"])
    def test_no_records_at_all(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "records.jsonl").write_text(content)
        with pytest.raises(ChipError, match="holds no records"):
            read_records(tmp_path)

    def test_no_records_file(self, tmp_path: Path) -> None:
        with pytest.raises(ChipError, match=r"holds no records\.jsonl; name a data directory"):
            read_records(tmp_path)

    def test_a_place_that_is_a_file_or_is_not_there_is_said_to_be(self, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "data", with_changes())
        with pytest.raises(ChipError, match=r"records\.jsonl is a file; name the data directory that holds"):
            read_records(data / "records.jsonl")
        with pytest.raises(ChipError, match=r"nothere is not there; name a data directory, which holds records\.jsonl"):
            read_records(tmp_path / "nothere")

    @pytest.mark.parametrize(
        "content",
        ["{", "[]", "{}", '{"levels": []}', '{"levels": "patient"}', '{"levels": ["a", 1]}', '{"levels": [""]}'],
    )
    def test_bad_levels(self, tmp_path: Path, content: str) -> None:
        data = write_lines(tmp_path, GOOD)
        (data / "dataset.json").write_text(content)
        with pytest.raises(ChipError, match=r"dataset\.json"):
            read_records(data)


class TestAccepted:
    def test_writing_and_reading_is_a_round_trip(self, tmp_path: Path) -> None:
        written = list(hospital_records())
        hierarchy = read_records(write_hospital(tmp_path / "data"))
        assert hierarchy.levels == LEVELS
        assert len(hierarchy.records) == len(written)
        for number, (record, source) in enumerate(zip(hierarchy.records, written, strict=True), start=1):
            images = (tmp_path / "data" / source["image"],) if source["image"] else ()
            assert record == Record(tuple(source["path"]), source["question"], source["answer"], images, line=number)

    @given(st.text(min_size=1).filter(str.strip), st.text(st.characters(categories=["L", "N"]), min_size=1))
    def test_any_text_survives(self, tmp_path_factory: pytest.TempPathFactory, text: str, name: str) -> None:
        data = tmp_path_factory.mktemp("text")
        write_records(data, ["level"], [{"path": [name], "question": text, "answer": text}])
        (record,) = read_records(data).records
        assert (record.path, record.question, record.answer) == ((name,), text, text)

    def test_several_images_documents_paraphrases_and_other_keys(self, tmp_path: Path) -> None:
        for seed in range(2):
            write_image(tmp_path / f"{seed}.png", seed)
        write_lines(
            tmp_path,
            with_changes(image=None, images=["0.png", "1.png"], paraphrases=["what ?"], split="train"),
            {"path": ["inst_0"], "text": "a plain document"},
        )
        shown, document = read_records(tmp_path).records
        assert [path.name for path in shown.images] == ["0.png", "1.png"]
        assert shown.paraphrases == ("what ?",)
        assert (document.text, document.question, document.answer) == ("a plain document", "", "")

    def test_a_byte_order_mark_is_no_part_of_the_first_record(self, tmp_path: Path) -> None:
        write_lines(tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
        assert read_records(tmp_path).records[0].answer == "nobody"

    def test_levels_have_a_default(self, tmp_path: Path) -> None:
        assert read_records(write_lines(tmp_path, GOOD)).levels == LEVELS


class TestImages:
    def write_broken(self, directory: Path, kind: str) -> Path:
        path = directory / f"{kind}.png"
        if kind == "text":
            path.write_text("this is no image")
        elif kind == "empty":
            path.write_bytes(b"")
        else:
            write_image(path, 0, side=64)
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
        return path

    @pytest.mark.parametrize("kind", ["text", "empty", "truncated"])
    def test_a_broken_image_is_an_error_that_names_the_line(self, tmp_path: Path, kind: str) -> None:
        path = self.write_broken(tmp_path, kind)
        data = write_lines(tmp_path, GOOD, with_changes(image=path.name))
        record = read_records(data).records[1]
        prompts = Prompts(tiny_models.tiny_processor(), tiny_models.IMAGE)
        with pytest.raises(ChipError, match=r"record on line 2: .*cannot be read as an image") as caught:
            prompts.encode(record)
        assert SECRET not in str(caught.value)

    def test_a_readable_image_is_not_blank(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png", 3)
        assert len(set(open_images([tmp_path / "a.png"], 1)[0].tobytes())) > 100


class TestDigests:
    def test_a_digest_tells_every_part_of_a_record_apart(self, tmp_path: Path) -> None:
        for seed in range(2):
            write_image(tmp_path / f"{seed}.png", seed)
        first, second = tmp_path / "0.png", tmp_path / "1.png"
        records = [
            Record(("a",), "q", "b"),
            Record(("b",), "q", "b"),
            Record(("a",), "p", "b"),
            Record(("a",), "q", "c"),
            Record(("a",), text="q"),
            Record(("a",), "q", "b", (first,)),
            Record(("a",), "q", "b", (second,)),
            Record(("a",), "q", "b", (first, second)),
            Record(("a",), "q", "b", (second, first)),
        ]
        assert len({record_digest(record) for record in records}) == len(records)

    def test_an_image_is_its_content_not_its_name(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png", 0)
        write_image(tmp_path / "b.png", 0)
        assert image_digest(tmp_path / "a.png") == image_digest(tmp_path / "b.png")
        write_image(tmp_path / "a.png", 1, side=30)
        assert image_digest(tmp_path / "a.png") != image_digest(tmp_path / "b.png")
