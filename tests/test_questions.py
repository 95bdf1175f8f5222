"""What the benchmark promises of its questions: answers that hold, options that do not, places that tell nothing, and
wordings that never meet."""

import json
import re
from collections import Counter
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chip.duolearn.lexicon import read_lexicon
from chip.medforget.charts import Chart
from chip.medforget.questions import BLANK, CLASSIFICATION, CLOZE, Question, placed, questions
from chip.medforget.scores import task_of
from chip.medforget.spellings import SECTIONS
from chip.medforget.terms import sentences_of, terms_of
from chip.medforget.wording import wordings

LEXICON = read_lexicon()
PHRASINGS = json.loads(files("chip.medforget").joinpath("phrasings.json").read_text())
FINDINGS = (
    "There is a small left pleural effusion with adjacent atelectasis. No pneumothorax is seen on this film at all.",
    "The lungs are hyperinflated, as before. Mild pulmonary edema is present in both lungs, more so on the right side.",
    "Right lower lobe consolidation, concerning for pneumonia. Cardiomegaly is unchanged since the last examination.",
    "A nodule projects over the left apex. Median sternotomy wires are intact, and the rest is as it was before this.",
)
LABELS = ("Edema", "Pneumonia", "Cardiomegaly", "Atelectasis", "Fracture")


def charts(patients: int = 6, studies: int = 2) -> list[Chart]:
    """Charts of a small hospital of two institutions."""
    found = []
    for patient in range(patients):
        for study in range(studies):
            place = patient * studies + study
            sections = {
                "EXAMINATION": ("CHEST (PA AND LAT)", "CHEST (PORTABLE AP)", "Chest radiograph", "DX CHEST")[place % 4],
                "FINDINGS": FINDINGS[place % 4],
                "IMPRESSION": f"As in study {place}, {FINDINGS[(place + 1) % 4]}",
            }
            found.append(
                Chart(
                    f"institution_{patient % 2 + 1}",
                    f"p{patient}",
                    f"s{place}",
                    sections,
                    (f"images/{place}a.png", f"images/{place}b.png"),
                    (("PA", "LATERAL"), ("AP", "LL"))[place % 2],
                    (LABELS[place % 5],),
                    (LABELS[(place + 1) % 5],),
                )
            )
    return found


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(charts(), LEXICON, options=4, seed=0, dealt=True)


def chart_of(number: int, **sections: str) -> Chart:
    """A chart of a patient of one study, with one picture."""
    return Chart("i", f"p{number}", f"s{number}", sections, ("a",), ("",))


def asked_of(*every: Chart, seed: int = 0) -> list[Question]:
    return questions(every, LEXICON, options=3, seed=seed, dealt=True)


def of(asked: list[Question], kind: str) -> list[Question]:
    found = [one for one in asked if one.kind == kind]
    assert found
    return found


def words(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "


class TestAnswers:
    def test_a_generation_asks_for_the_whole_section(self, asked: list[Question]) -> None:
        by_study = {chart.study: chart for chart in charts()}
        for one in of(asked, "generation"):
            assert one.answer == by_study[one.path[2]].sections[one.path[3]]

    def test_the_blank_filled_in_is_a_sentence_of_the_section(self, asked: list[Question]) -> None:
        by_study = {chart.study: chart for chart in charts()}
        for one in of(asked, "cloze"):
            whole = one.fields["sentence"].replace(BLANK, one.answer)
            assert whole in sentences_of(by_study[one.path[2]].sections[one.path[3]])
            assert terms_of(one.answer, LEXICON)
            assert words(one.answer) not in words(one.fields["sentence"])

    def test_of_the_options_the_answer_alone_holds(self, asked: list[Question]) -> None:
        by_study = {chart.study: chart for chart in charts()}
        for one in of(asked, "mentioned"):
            text = words(" ".join(by_study[one.path[2]].sections.values()))
            assert [words(option[3:]) in text for option in one.options].count(True) == 1
        for one in of(asked, "present"):
            chart = by_study[one.path[2]]
            assert {option[3:] for option in one.options} & {*chart.present, *chart.uncertain} == {one.answer[3:]}

    def test_no_option_stands_in_the_report_in_another_number(self) -> None:
        first = f"{FINDINGS[0]} There are pleural effusions and opacities too."
        second = f"Opacity, nodule, pneumonia, fracture, edema. {FINDINGS[3]}"
        made = asked_of(chart_of(0, FINDINGS=first), chart_of(1, FINDINGS=second))
        (one,) = [one for one in of(made, "mentioned") if one.path[1] == "p0"]
        wrong = {option[3:] for option in one.options if option != one.answer}
        assert not {"opacity", "opacities", "pleural effusion"} & wrong

    def test_a_wording_that_stands_in_the_report_or_holds_the_answer_is_no_option(self) -> None:
        texts = ("Chest", "CHEST (PA AND LAT)", "Portable chest", "DX CHEST 2 VIEWS", "Chest radiograph", "AP film")
        every = (chart_of(n, EXAMINATION=text, TECHNIQUE="Portable chest") for n, text in enumerate(texts))
        for one in of(asked_of(*every), "worded"):
            right = words(one.answer[3:])
            for wrong in (words(option[3:]) for option in one.options if option != one.answer):
                assert wrong not in words("Portable chest")
                assert wrong not in right
                assert right not in wrong

    def test_no_other_sentence_fills_a_blank_otherwise(self) -> None:
        text = "There is no pneumothorax. There is no pulmonary edema. Mild atelectasis at the left base is new today."
        for seed in range(8):
            (one,) = of(asked_of(chart_of(0, FINDINGS=text), seed=seed), "cloze")
            assert one.fields["sentence"] == f"Mild {BLANK} at the left base is new today."

    def test_what_one_patient_alone_has_is_no_fact_of_the_institution(self) -> None:
        made = [replace(chart, sections={"EXAMINATION": f"Examination {chart.patient}"}) for chart in charts()]
        assert not [one for one in questions(made, LEXICON, options=4, seed=0, dealt=True) if one.kind == "usual"]

    def test_options_come_from_siblings_as_long_as_there_are_enough(self) -> None:
        """With four studies a patient, the three other wordings stand in the patient's own studies."""
        made = questions(charts(patients=3, studies=4), LEXICON, options=4, seed=0, dealt=True)
        alone = questions(charts(patients=3, studies=4)[:4], LEXICON, options=4, seed=0, dealt=True)
        for one in of(made, "worded"):
            if one.path[:2] == ("institution_1", "p0"):
                assert {o[3:] for o in one.options} == {o[3:] for o in of(alone, "worded")[0].options}

    def test_an_institution_shows_no_image_and_all_others_one_of_their_own(self, asked: list[Question]) -> None:
        own = {chart.path: chart.pictures for chart in charts()}
        for one in asked:
            if len(one.path) == 1:
                assert one.image is None
            else:
                assert one.image in {name for path, names in own.items() if path[:2] == one.path[:2] for name in names}
            if len(one.path) > 2:
                assert one.image in own[one.path[:3]]

    def test_an_institution_that_the_export_names_has_no_made_up_code(self) -> None:
        assert not [one for one in questions(charts(), LEXICON, options=4, seed=0, dealt=False) if one.kind == "code"]

    def test_every_level_has_its_identity(self, asked: list[Question]) -> None:
        for kind, depth in (("code", 1), ("patient", 2), ("institution", 2), ("study", 3)):
            assert {len(one.path) for one in of(asked, kind)} == {depth}
        assert {one.answer for one in of(asked, "patient")} == {f"p{number}" for number in range(6)}

    def test_a_patient_more_changes_nothing_of_what_others_are_asked_but_their_options(self) -> None:
        few = {
            (one.kind, one.path, one.image): one for one in questions(charts(5), LEXICON, options=4, seed=0, dealt=True)
        }
        many = {
            (one.kind, one.path, one.image): one for one in questions(charts(6), LEXICON, options=4, seed=0, dealt=True)
        }
        for key, one in few.items():
            if one.kind in ("generation", "study", "patient", "institution", "code"):
                assert many[key] == one


class TestPlaces:
    @given(st.lists(st.integers(3, 8), min_size=1, max_size=60), st.integers(0, 9))
    @settings(max_examples=30, deadline=None)
    def test_answers_stand_at_each_place_alike_often(self, sizes: list[int], seed: int) -> None:
        made = [
            Question("worded", CLASSIFICATION, (f"n{place}",), "right", options=("right", *map(str, range(size - 1))))
            for place, size in enumerate(sizes)
        ]
        for size in set(sizes):
            ordered = [one for one in placed(made, seed) if len(one.options) == size]
            counts = Counter(one.options.index(one.answer) for one in ordered)
            found = [counts[place] for place in range(size)]
            assert max(found) - min(found) <= 1

    def test_an_answer_is_its_option_letter_and_text(self, asked: list[Question]) -> None:
        for one in asked:
            if one.options:
                assert one.answer in one.options
                assert [option[:3] for option in one.options] == ["A) ", "B) ", "C) ", "D) "][: len(one.options)]
                assert len({words(option[3:]) for option in one.options}) == len(one.options)


class TestWordings:
    def test_there_are_six_of_every_kind(self) -> None:
        assert {len(templates) for templates in PHRASINGS.values()} == {6}
        assert {len(set(templates)) for templates in PHRASINGS.values()} == {6}

    def test_training_editing_and_evaluation_never_meet(self, asked: list[Question]) -> None:
        made = [wordings(one.kind, one.fields) for one in asked]
        editing = {one.editing for one in made}
        training = {text for one in made for text in one.training}
        evaluation = {text for one in made for text in one.evaluation}
        assert not editing & training
        assert not editing & evaluation
        assert not training & evaluation
        assert {(len(one.training), len(one.evaluation)) for one in made} == {(3, 2)}

    def test_the_authors_code_sees_the_task_in_every_wording(self, asked: list[Question]) -> None:
        for one in asked:
            made = wordings(one.kind, one.fields)
            for text in (made.editing, *made.training, *made.evaluation):
                wanted = one.task if one.task in (CLASSIFICATION, CLOZE) else "generation"
                assert task_of(text) == wanted
                assert "{" not in text

    def test_every_kind_of_question_has_wordings_and_every_wording_a_question(self, asked: list[Question]) -> None:
        assert {one.kind for one in asked} == PHRASINGS.keys()


def test_sections_are_asked_about_in_the_order_of_a_report() -> None:
    chart = replace(charts()[0], sections=dict.fromkeys(SECTIONS, FINDINGS[0]))
    made = questions([chart], LEXICON, options=4, seed=0, dealt=True)
    assert [one.path[3] for one in made if one.kind == "generation"] == list(SECTIONS)
