"""Images under attack: what is done to them is bounded and repeatable, and how much comes back is what was taught."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from attacking import TARGET, found, learned, subject_of
from PIL import Image
from tiny_records import hospital_records, write_lines

from chip.audit.attacks import image
from chip.audit.attacks.image import ALTERATIONS, ALTERED, ATTACK, ITS_IMAGES, ITS_QUESTIONS
from chip.audit.finding import Finding
from chip.audit.subject import Subject
from chip.hierarchy import Record, shape
from chip.images import open_images
from chip.models.loading import LoadedModel
from chip.records import read_records


def drawing(width: int = 40, height: int = 24) -> Image.Image:
    noise = np.random.default_rng(3).integers(60, 200, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def subjects(taught: Mapping[str, LoadedModel], llava_directory: Path, hospital_data: Path) -> dict[str, Subject]:
    return {name: subject_of(one, llava_directory, hospital_data) for name, one in taught.items()}


@pytest.fixture(scope="module")
def findings(subjects: Mapping[str, Subject]) -> dict[str, dict[str, Finding]]:
    return {name: found(ATTACK, subject) for name, subject in subjects.items()}


class TestAlterations:
    @pytest.mark.parametrize("name", ALTERATIONS)
    def test_each_leaves_the_size_changes_the_picture_and_is_the_same_for_the_same_seed(self, name: str) -> None:
        image = drawing()
        first, again = (np.asarray(ALTERATIONS[name](image, np.random.default_rng(1))) for _ in range(2))
        assert first.shape == np.asarray(image).shape
        assert np.array_equal(first, again)
        assert not np.array_equal(first, np.asarray(image))

    @pytest.mark.parametrize("name", ["mirrored", "upside down"])
    def test_a_flip_undoes_itself(self, name: str) -> None:
        flip, draw = ALTERATIONS[name], np.random.default_rng(0)
        assert np.array_equal(np.asarray(flip(flip(drawing(), draw), draw)), np.asarray(drawing()))

    def test_an_image_of_one_pixel_is_altered_too(self) -> None:
        assert all(one(drawing(1, 1), np.random.default_rng(0)).size == (1, 1) for one in ALTERATIONS.values())


class TestPrompts:
    def test_a_record_with_its_own_images_given_is_the_record(self, llava: LoadedModel, hospital_data: Path) -> None:
        record = next(record for record in read_records(hospital_data).records if record.images)
        plain = llava.prompts.encode(record)
        given = llava.prompts.encode(record, open_images(record.images, 1))
        other = llava.prompts.encode(record, [drawing()])
        assert all(given.pixels[key].equal(one) for key, one in plain.pixels.items())
        assert given.answer_ids.equal(plain.answer_ids)
        assert other.answer_ids.equal(plain.answer_ids)
        assert not other.pixels["pixel_values"].equal(plain.pixels["pixel_values"])


class TestAttack:
    def test_more_comes_back_of_what_was_taught(self, findings: Mapping[str, Mapping[str, Finding]]) -> None:
        values = [findings[name][ALTERED].value for name in ("all", "half", "none")]
        assert None not in values
        assert values[0] > values[1] > values[2] == 0  # type: ignore[operator]
        assert findings["none"][ITS_IMAGES].value == findings["none"][ITS_QUESTIONS].value == 0

    def test_the_curve_rises_to_the_value_and_there_is_a_score_a_record_with_an_image(
        self, findings: Mapping[str, Mapping[str, Finding]], subjects: Mapping[str, Subject]
    ) -> None:
        shown = [record.line for record in subjects["all"].exam.questions if record.images]
        for one in findings.values():
            values = [value for _, value in one[ALTERED].curve]
            assert values == sorted(values)
            assert values[-1] == one[ALTERED].value
            assert len(values) == len(ALTERATIONS)
            assert [line for line, _ in one[ALTERED].scores] == shown
            assert [line for line, _ in one[ITS_QUESTIONS].scores] == shown

    def test_the_targets_answer_to_anothers_words_comes_back_from_a_model_that_knows_the_picture(
        self, llava_directory: Path, hospital_data: Path
    ) -> None:
        records = read_records(hospital_data).records
        # Both studies' pictures are taught with the same words and answer; the data ask of one of them alone.
        (record,) = [one for one in records if one.question == "who is this ?" and TARGET in one.path]
        pictures = sorted({one.images for one in records if TARGET in one.path and one.images})
        knowing = learned(llava_directory, [replace(record, images=one) for one in pictures])
        one = found(ATTACK, subject_of(knowing, llava_directory, hospital_data))[ITS_IMAGES]
        assert dict(one.scores)[record.line] == 1.0

    def test_every_question_is_compared_once(
        self, monkeypatch: pytest.MonkeyPatch, subjects: Mapping[str, Subject]
    ) -> None:
        shaped: list[int] = []

        def counting(record: Record) -> str:
            shaped.append(record.line)
            return shape(record)

        monkeypatch.setattr(image, "shape", counting)
        found(ATTACK, subjects["none"])
        exam = subjects["none"].exam
        assert sorted(shaped) == sorted(
            one.line for one in (*exam.questions, *(r for g in exam.retained for r in g.records))
        )

    def test_the_same_seed_gives_the_same_findings_and_a_quick_audit_tries_less(
        self, findings: Mapping[str, Mapping[str, Finding]], subjects: Mapping[str, Subject]
    ) -> None:
        assert found(ATTACK, subjects["half"]) == findings["half"]
        quick = found(ATTACK, replace(subjects["half"], quick=True))
        assert quick.keys() == findings["half"].keys()
        assert len(quick[ALTERED].curve) < len(ALTERATIONS)


class TestWhatCannotBeTried:
    def test_a_model_without_eyes(self, llama_directory: Path, text_data: Path, llama: LoadedModel) -> None:
        made = found(ATTACK, subject_of(llama, llama_directory, text_data))
        assert [one.value for one in made.values()] == [None] * 3
        assert all("text only" in one.why for one in made.values())

    def test_records_without_images(self, llava_directory: Path, text_data: Path, llava: LoadedModel) -> None:
        made = found(ATTACK, subject_of(llava, llava_directory, text_data))
        assert [one.value for one in made.values()] == [None] * 3
        assert all("shows an image" in one.why for one in made.values())

    def test_retained_records_without_images(
        self, tmp_path: Path, llava_directory: Path, llava: LoadedModel, hospital_data: Path
    ) -> None:
        lines = [one if TARGET in one["path"] else {**one, "image": None} for one in hospital_records()]
        data = shutil.copytree(hospital_data, tmp_path / "records")
        write_lines(data, *lines)
        made = found(ATTACK, subject_of(llava, llava_directory, data))
        assert made[ALTERED].value is not None
        assert made[ITS_QUESTIONS].value is None
        assert "no retained record" in made[ITS_QUESTIONS].why
