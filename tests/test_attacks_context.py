"""Reconstruction: what is told at each depth, that it never gives the answer away, and that it fits the model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
from attacking import TARGET, found, learned, subject_of
from tiny_records import LEVELS, hospital_records, write_lines

from chip.audit.attacks import reconstruction
from chip.audit.attacks.reconstruction import ATTACK, OWN, PLACE, SURROUNDINGS
from chip.audit.subject import Subject
from chip.hierarchy import Record
from chip.measure import Answer
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.models.prompts import Encoded
from chip.records import read_records, write_records


class Heard(Subject):
    """A subject that remembers what it was asked."""

    def ask(self, records: Sequence[Record], doing: str, encoded: Sequence[Encoded] | None = None) -> list[Answer]:
        vars(self).setdefault("heard", {}).setdefault(doing, []).extend(records)
        return super().ask(records, doing, encoded)


def heard(subject: Subject) -> dict[str, list[Record]]:
    """What is asked, by what is done."""
    listening = Heard(**vars(subject))
    found(ATTACK, listening)
    asked: dict[str, list[Record]] = vars(listening)["heard"]
    return asked


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose window holds every fact."""
    return tiny_models.text_model(tmp_path_factory.mktemp("roomy") / "model", "llama", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def told(roomy: Path, text_data: Path) -> dict[str, list[Record]]:
    """What is asked where nothing limits how much is told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "CONTEXT", 4096)
        return heard(subject_of(load_model(Checkpoint(roomy), "cpu"), roomy, text_data))


def lines_of(record: Record) -> list[str]:
    return record.question.split("\n")


class TestContext:
    def test_each_depth_tells_what_lies_farther_off(self, told: Mapping[str, list[Record]], text_data: Path) -> None:
        for place in range(8):
            # Little first, then as much as fits.
            one, two, three = (told[f"context, depth {depth}"][2 * place + 1] for depth in (1, 2, 3))
            assert lines_of(one)[0] == f"This is about {'/'.join(one.path)}."
            assert set(lines_of(one)) <= set(lines_of(two)) <= set(lines_of(three))
            assert any(line.startswith("inst_0: ") for line in lines_of(one))
            assert not any("/patient_" in line.split(": ")[0] for line in lines_of(one)[1:])
            assert any("/patient_1" in line for line in lines_of(two))
            assert not any("/patient_0" in line.split(": ")[0] for line in lines_of(two)[1:])
            assert any("/patient_0" in line.split(": ")[0] for line in lines_of(three)[1:])
            assert not any("inst_1" in line for line in lines_of(three))

    def test_no_context_gives_the_answer(self, told: Mapping[str, list[Record]]) -> None:
        for records in told.values():
            for record in records:
                context = record.question.rsplit("\n\n", 1)[0]
                assert f" {record.answer} " not in f" {context} ".replace("\n", " ")

    @pytest.mark.parametrize(
        ("answer", "line"),
        [
            ("patient_7", "This is about a/patient_7."),
            ("024e7871", "a/patient_024e7871: who ? me"),
            ("Ida", "a: who leads ? Dr Ida."),
            ("Ida Berg", "a/ida_berg: when ? today"),
            ("+", "a: sign ? ++-"),
        ],
    )
    def test_a_line_gives_an_answer_away_whatever_stands_around_it(self, answer: str, line: str) -> None:
        assert reconstruction._holds(line, answer)
        assert not reconstruction._holds("a/patient_70: who leads ? Idaho Berg", answer)

    def test_names_that_say_the_answer_are_not_told(
        self, tmp_path: Path, llama: LoadedModel, llama_directory: Path
    ) -> None:
        lines: list[dict[str, object]] = [
            {"path": ["ward_0"], "question": "who leads ?", "answer": "Dr Ida."},
            {"path": ["ward_0", "patient_0a7"], "question": "the identifier ?", "answer": "0a7"},
            {"path": ["ward_0", "patient_0a7"], "question": "the nurse ?", "answer": "Ida"},
            {"path": ["ward_0", "patient_0a7"], "question": "the ward ?", "answer": "ward_0/patient_0a7"},
            {"path": ["ward_0", "patient_1"], "question": "the bed ?", "answer": "7"},
            {"path": ["ward_1", "patient_2"], "question": "the bed ?", "answer": "8"},
        ]
        data = write_lines(tmp_path / "records", *lines)
        asked = heard(subject_of(llama, llama_directory, data, forget="patient_0a7"))
        told = {record.line: record.question for record in asked["context, depth 3"]}
        assert "0a7" not in told[2]
        assert told[2].startswith("This is about ward_0.")
        assert "Ida" not in told[3]
        assert "patient_0a7: the ward" in told[3]
        assert not told[4].startswith("This is about")
        assert "patient_1: the bed ? 7" in told[4]

    def test_a_place_is_told_level_by_level_from_the_root_down(self, told: Mapping[str, list[Record]]) -> None:
        names = ("inst_0", "patient_0")
        for length, last in ((1, ["institution: inst_0"]), (2, ["institution: inst_0; patient: patient_0"])):
            for record in told[f"context, level {length}"]:
                shown = [line for line in lines_of(record) if line.startswith("institution: ")]
                assert shown == last
                assert not any(name in shown[0] for name in record.path[length:] if name not in names[:length])
        deepest = told["context, level 4"]
        assert all(lines_of(record)[0].count(": ") == len(record.path) for record in deepest)

    def test_an_option_is_given_away_under_no_letter(self, roomy: Path, tmp_path: Path) -> None:
        question, options = "which patient ?", ["A) patient_1", "B) patient_0", "C) patient_2"]
        lines: list[dict[str, object]] = [
            {"path": ["inst_0", answer[3:]], "question": question, "options": options, "answer": answer}
            for answer in options
        ]
        lines.append({"path": ["inst_0"], "question": "who is here ?", "answer": "patient_0"})
        write_records(tmp_path, LEVELS, lines)
        subject = subject_of(load_model(Checkpoint(roomy), "cpu"), roomy, tmp_path, forget="patient_0")
        for name, records in heard(subject).items():
            for record in records:
                context = record.question.removesuffix(question)
                assert "patient_0" not in context, name

    def test_the_nearest_fact_stands_next_to_the_question(self, told: Mapping[str, list[Record]]) -> None:
        for record in told["context, depth 3"]:
            facts = [line.split(": ")[0].split("/") for line in lines_of(record)[1:-2]]
            near = [sum(tuple(fact[:depth]) == record.path[:depth] for depth in range(1, 5)) for fact in facts]
            assert near == sorted(near)

    def test_it_fits_a_small_window(self, llama: LoadedModel, llama_directory: Path, text_data: Path) -> None:
        subject = subject_of(llama, llama_directory, text_data)
        window = llama.model.config.get_text_config().max_position_embeddings
        asked = heard(subject)
        lengths = [len(llama.prompts.encode(record)) for records in asked.values() for record in records]
        assert window / 2 < max(lengths) <= window


class TestAttack:
    def test_more_comes_back_of_what_was_taught(
        self, taught: Mapping[str, LoadedModel], llava_directory: Path, hospital_data: Path
    ) -> None:
        made = {name: found(ATTACK, subject_of(one, llava_directory, hospital_data)) for name, one in taught.items()}
        every, half, none = (made[name][SURROUNDINGS].value for name in ("all", "half", "none"))
        assert every == 1.0
        assert every > half > none  # type: ignore[operator]
        for one in made.values():
            assert [level for level, _ in one[PLACE].curve] == [0, 1, 2, 3, 4]
            assert one[PLACE].value == max(value for _, value in one[PLACE].curve)
            around, own = one[SURROUNDINGS], one[OWN]
            assert around.value == max(value for _, value in around.curve)
            assert [depth for depth, _ in own.curve] == [0, 1, 2, 3]
            assert own.value == own.curve[-1][1]

    def test_a_model_that_answers_only_in_context_is_found_out(self, roomy: Path, text_data: Path) -> None:
        """What an edit took from the plain question alone stands there again as soon as a patient's surroundings are
        told."""
        untaught = load_model(Checkpoint(roomy), "cpu")
        before = subject_of(untaught, roomy, text_data)
        asked = heard(before)["context, depth 1"][1::2][:3]
        hiding = learned(roomy, asked, steps=120)
        made = found(ATTACK, subject_of(hiding, roomy, text_data))[SURROUNDINGS]
        assert dict(made.curve)[0] == 0
        assert dict(made.curve)[1] >= 3 / 8
        assert made.value == max(value for _, value in made.curve)

    def test_the_same_again_and_a_quick_audit_asks_less(
        self, llama: LoadedModel, llama_directory: Path, text_data: Path
    ) -> None:
        subject = subject_of(llama, llama_directory, text_data)
        first = found(ATTACK, subject)
        assert found(ATTACK, subject) == first
        quick = found(ATTACK, replace(subject, quick=True))
        assert quick.keys() == first.keys()
        assert [depth for depth, _ in quick[OWN].curve] == [0, 2, 3]

    def test_a_target_of_one_record_has_nothing_more_to_tell(
        self, llama: LoadedModel, llama_directory: Path, text_data: Path
    ) -> None:
        made = found(ATTACK, subject_of(llama, llama_directory, text_data, forget="study_0_0/FINDINGS"))
        assert made[SURROUNDINGS].value is not None
        assert made[OWN].value is None
        assert made[OWN].why == "the target has no other records"

    def test_documents_ask_nothing(self, tmp_path: Path, llama: LoadedModel, llama_directory: Path) -> None:
        lines = [
            {"path": one["path"], "text": f"{one['question']} {one['answer']}"} if TARGET in one["path"] else one
            for one in ({**line, "image": None} for line in hospital_records())
        ]
        write_records(tmp_path, LEVELS, [])
        write_lines(tmp_path, *lines)
        assert any(record.text is not None for record in read_records(tmp_path).records)
        made = found(ATTACK, subject_of(llama, llama_directory, tmp_path))
        assert [one.value for one in made.values()] == [None, None, None]
        assert all("documents" in one.why for one in made.values())
