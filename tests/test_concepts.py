"""Concepts: words come to levels and roles by a lexicon and by the data, and tokens get those of their words."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from command_line import chip, chip_here
from hypothesis import given
from hypothesis import strategies as st
from test_real_data import real
from tiny_records import split_of, write_hospital
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from chip.duolearn.concepts import WEIGHTS, Concepts, LevelledWord
from chip.duolearn.labels import label_tokens
from chip.duolearn.lexicon import LEVELS, Lexicon, read_lexicon
from chip.duolearn.words import words_of
from chip.errors import ChipError
from chip.hierarchy import Hierarchy, Record
from chip.models.prompts import Prompts
from chip.records import read_records
from chip.workflow import ConceptsRequest, ShownConcepts, show_concepts

TERMS = {"1": ["lung", "chest"], "2": ["x-ray", "pain", "chest pain"], "3": ["chest x-ray", "lung cancer", "Ödem"]}
PROMPTS = {
    "images": Prompts(tiny_models.tiny_processor(), tiny_models.IMAGE),
    "text": Prompts(tiny_models.tiny_tokenizer(), None),
    "no template": Prompts(tiny_models.tiny_tokenizer(None), None),
}
ALPHABET = st.sampled_from([*"aB ü1.-,ß\n?'", "e\u0301", " 26 mm ", "lung", "x-ray ", "A. ", "肺"])
TEXTS = st.lists(ALPHABET, max_size=12).map("".join)
SAID = TEXTS.filter(lambda said: bool(said.strip()))


def lexicon(directory: Path, **changed: Any) -> Path:
    """A lexicon's file; `changed` replaces what stands in it, and None takes it out."""
    content = {"format": "chip-lexicon-1", "license": "ours", "common": ["the", "of"], "levels": TERMS, **changed}
    path = directory / "lexicon.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return read_lexicon(lexicon(tmp_path_factory.mktemp("lexicon")))


def levelled(known: Lexicon, text: str) -> list[tuple[str, int]]:
    words = words_of(text)
    return [(text[word.start : word.stop], level) for word, level in zip(words, known.levels(words), strict=True)]


def hospital(answers: Sequence[str], target: str = "the lung is clear") -> tuple[Hierarchy, Record]:
    """Patients who are asked the same, one record each, the first of them the target."""
    records = [
        Record(("h", f"p{number}"), f"what has p{number} ?", answer, line=number + 1)
        for number, answer in enumerate((target, *answers))
    ]
    return Hierarchy(("hospital", "patient"), records), records[0]


def concepts_of(known: Lexicon, hierarchy: Hierarchy, **options: bool) -> Concepts:
    return Concepts(known, hierarchy, hierarchy.split([("h", "p0")]), **options)


def shown(record: Record, words: Sequence[LevelledWord]) -> list[tuple[str, int, bool]]:
    return [(record.answer[word.start : word.stop], word.level, word.targeted) for word in words]


class TestWords:
    def test_hyphens_part_words_and_signs_are_words_of_their_own(self) -> None:
        assert [word.key for word in words_of("Follow-up: 12 mm, patient_123's!")] == [
            *("follow", "-", "up", ":", "12", "mm", ",", "patient_123", "'", "s", "!"),
        ]

    def test_numbers_are_whole(self) -> None:
        assert [word.key for word in words_of("1,250.5 ml of 3. and 12.03.2011, 26mm")] == [
            *("1,250.5", "ml", "of", "3", ".", "and", "12.03.2011", ",", "26mm"),
        ]

    def test_umlauts_are_one_word_however_they_are_spelled(self) -> None:
        composed, taken_apart = words_of("ÖDEM"), words_of("O\u0308dem")
        assert [word.key for word in composed] == [word.key for word in taken_apart] == ["ödem"]
        assert [word.key for word in words_of("STRASSE Straße")] == ["strasse", "strasse"]

    def test_an_options_label_is_no_article(self) -> None:
        assert [word.key for word in words_of("which?\nA. a lung\n B) none. A. b")] == [
            *("which", "?", "a.", "a", "lung", "b)", "none", ".", "a", ".", "b"),
        ]

    @given(TEXTS)
    def test_they_leave_out_white_space_alone(self, text: str) -> None:
        words = words_of(text)
        covered = [place for word in words for place in range(word.start, word.stop)]
        assert covered == [place for place, letter in enumerate(text) if not letter.isspace()]


class TestMatching:
    def test_the_longest_term_is_taken(self, small: Lexicon) -> None:
        assert levelled(small, "Chest X-ray: chest pain, chest") == [
            *(("Chest", 3), ("X", 3), ("-", 3), ("ray", 3), (":", 1)),
            *(("chest", 2), ("pain", 2), (",", 1), ("chest", 1)),
        ]

    def test_a_hyphen_does_not_count(self, small: Lexicon) -> None:
        assert levelled(small, "x ray") == [("x", 2), ("ray", 2)]
        assert levelled(small, "X‑RAY") == [("X", 2), ("‑", 2), ("RAY", 2)]

    def test_terms_end_where_words_do(self, small: Lexicon) -> None:
        assert levelled(small, "lungs painful lung_1") == [("lungs", 0), ("painful", 0), ("lung_1", 0)]
        assert levelled(small, "pain-free lung, cancer") == [
            *(("pain", 2), ("-", 1), ("free", 0), ("lung", 1), (",", 1), ("cancer", 0)),
        ]

    def test_umlauts_match_in_any_case_and_spelling(self, small: Lexicon) -> None:
        assert [level for _, level in levelled(small, "Ödem ödem O\u0308DEM Ödeme")] == [3, 3, 3, 0]

    def test_what_ships_is_read_and_has_three_levels(self) -> None:
        ours = read_lexicon()
        assert {level for terms in ours.terms.values() for _, level in terms} == {1, 2, 3}
        assert len(ours) >= 400
        assert dict(levelled(ours, "a pleural effusion, fever in the lung")) == {
            **{"a": 1, "pleural": 3, "effusion": 3, ",": 1, "fever": 2, "in": 1, "the": 1, "lung": 1},
        }


class TestBadLexicons:
    @pytest.mark.parametrize(
        ("changed", "why"),
        [
            ({"format": "chip-lexicon-9"}, "its format is not 'chip-lexicon-1'"),
            ({"format": None}, "its format is not 'chip-lexicon-1'"),
            ({"license": None}, "license"),
            ({"license": 3}, "license"),
            ({"terms": []}, "nothing in it may be called 'terms'"),
            ({"levels": None}, "its levels are not"),
            ({"levels": {"1": [], "2": []}}, "its levels are not"),
            ({"levels": {**TERMS, "5": []}}, "its levels are not"),
            ({"levels": {**TERMS, "1": "lung"}}, "what stands at 1 is no list of terms"),
            ({"levels": {**TERMS, "2": [4]}}, "what stands at 2 is no list of terms"),
            ({"levels": {**TERMS, "1": ["  "]}}, "a term at 1 is empty"),
            ({"levels": {**TERMS, "1": ["-"]}}, "a term at 1 is empty"),
            ({"levels": {**TERMS, "1": ["X ray"]}}, "'x ray' stands in it twice, at 1 and at 2"),
            ({"levels": {**TERMS, "1": ["lung", "Lung"]}}, "'lung' stands in it twice, at 1 and at 1"),
            ({"common": ["lung"]}, "'lung' stands in it twice, at 1 and at common"),
            ({"common": ["as well"]}, "'as well' is not one word"),
        ],
    )
    def test_each_kind_is_named(self, tmp_path: Path, changed: dict[str, Any], why: str) -> None:
        path = lexicon(tmp_path, **changed)
        with pytest.raises(ChipError, match=r"docs/formats\.md") as raised:
            read_lexicon(path)
        assert why in str(raised.value)
        assert str(path) in str(raised.value)

    @pytest.mark.parametrize(
        ("written", "why"),
        [
            (b"", "is no lexicon"),
            (b"[]", "its format is not"),
            (b"\xff\xfe", "it is not UTF-8"),
            (b'{"format": "chip-lexicon-1", "format": "chip-lexicon-1"}', "a name stands in it twice"),
            (b"[" * 100_000, "is no lexicon"),
            (None, "No such file"),
        ],
    )
    def test_a_file_that_is_none_is_named(self, tmp_path: Path, written: bytes | None, why: str) -> None:
        path = tmp_path / "lexicon.json"
        if written is not None:
            path.write_bytes(written)
        with pytest.raises(ChipError, match=why):
            read_lexicon(path)

    def test_a_directory_is_no_lexicon(self, tmp_path: Path) -> None:
        with pytest.raises(ChipError, match="is no regular file"):
            read_lexicon(tmp_path)


class TestLevels:
    def test_there_are_four_and_the_targets_own_weigh_most(self) -> None:
        assert list(LEVELS) == list(WEIGHTS) == [1, 2, 3, 4]
        assert sorted(WEIGHTS.values()) == list(WEIGHTS.values())
        assert WEIGHTS[4] == 1.0

    def test_the_lexicon_comes_before_the_data(self, small: Lexicon) -> None:
        hierarchy, record = hospital(["nothing"], target="lung cancer of the zorb")
        found = concepts_of(small, hierarchy, choices=False).words(record, target=True).answer
        assert shown(record, found) == [
            *(("lung", 3, False), ("cancer", 3, False), ("of", 1, False), ("the", 1, False), ("zorb", 4, True)),
        ]

    def test_the_data_level_by_how_widely_words_are_held(self, small: Lexicon) -> None:
        others = ["wide rare", "wide", "none", "none"]
        hierarchy, record = hospital(others, target="wide rare own")
        found = concepts_of(small, hierarchy, choices=False).words(record, target=True).answer
        assert shown(record, found) == [("wide", 2, False), ("rare", 3, False), ("own", 4, True)]

    def test_a_retained_question_holds_words_too(self, small: Lexicon) -> None:
        hierarchy, record = hospital(["nothing"], target="p1 what")
        found = concepts_of(small, hierarchy, choices=False).words(record, target=True)
        assert [word.level for word in found.answer] == [2, 2]
        assert [(record.question[w.start : w.stop], w.targeted) for w in found.question][2] == ("p0", True)

    def test_choices_are_words_that_retained_answers_seldom_go_on_with(self, small: Lexicon) -> None:
        others = ["left nodule of zone", "left nodule of zone", "right nodule of zone"]
        hierarchy, record = hospital(others, target="right nodule of zone")
        assert [word.targeted for word in concepts_of(small, hierarchy).words(record, target=True).answer] == [
            *(True, False, False, False),
        ]
        without = concepts_of(small, hierarchy, choices=False).words(record, target=True)
        assert not any(word.targeted for word in without.answer)

    def test_the_first_word_is_compared_where_the_same_is_asked(self, small: Lexicon) -> None:
        hierarchy, record = hospital(["no", "no", "yes"], target="no")
        concepts = concepts_of(small, hierarchy)
        assert not concepts.words(record, target=True).answer[0].targeted
        other = replace(record, question="is p0 well ?")
        assert concepts.words(other, target=True).answer[0].targeted

    def test_signs_are_passed_over_and_common_words_are_no_choice(self, small: Lexicon) -> None:
        hierarchy, record = hospital(["hollis, ward one", "small : of"], target="hollis (ward) of one, the ward")
        found = concepts_of(small, hierarchy).words(record, target=True).answer
        assert [word for word, _, targeted in shown(record, found) if targeted] == ["one", "ward"]

    def test_nothing_retained_is_targeted(self, small: Lexicon) -> None:
        hierarchy, _ = hospital(["own words", "others"])
        concepts = concepts_of(small, hierarchy)
        for record in hierarchy.records[1:]:
            found = concepts.words(record, target=False)
            assert not any(word.targeted for word in (*found.question, *found.answer))
            assert all(1 <= word.level <= 3 for word in (*found.question, *found.answer))

    @given(st.lists(SAID, min_size=1, max_size=5), SAID, st.randoms(use_true_random=False))
    def test_the_order_of_records_does_not_matter(
        self, small: Lexicon, answers: list[str], target: str, draw: Any
    ) -> None:
        hierarchy, record = hospital(answers, target)
        turned = Hierarchy(hierarchy.levels, draw.sample(hierarchy.records, len(hierarchy.records)))
        first, second = concepts_of(small, hierarchy), concepts_of(small, turned)
        for one in hierarchy.records:
            assert first.words(one, target=one is record) == second.words(one, target=one is record)

    @given(st.lists(SAID, min_size=1, max_size=4), SAID)
    def test_every_word_has_one_level_and_own_words_are_targeted(
        self, small: Lexicon, answers: list[str], target: str
    ) -> None:
        hierarchy, record = hospital(answers, target)
        with_choices, without = (concepts_of(small, hierarchy, choices=choices) for choices in (True, False))
        found, fewer = (one.words(record, target=True).answer for one in (with_choices, without))
        assert [(word.start, word.stop) for word in found] == [(word.start, word.stop) for word in words_of(target)]
        assert all(word.level in LEVELS for word in found)
        assert [word.level for word in found] == [word.level for word in fewer]
        assert all(word.targeted == (word.level == 4) for word in fewer)
        assert {word for word in fewer if word.targeted} <= set(found)


class TestTokens:
    @pytest.mark.parametrize("kind", PROMPTS)
    @given(question=SAID, answer=SAID)
    def test_spans_tile_the_question_and_the_answer(self, kind: str, question: str, answer: str) -> None:
        """Every character but white space is some token's, in order; tokens overlap inside one character at most."""
        prompts, record = PROMPTS[kind], Record(("a",), question, answer, line=1)
        spans = prompts.spans(record, prompts.encode(record))
        for part, said in (("question", question), ("answer", answer)):
            own = [span for span in spans if span.part == part]
            covered = {place for span in own for place in range(span.start, span.stop)}
            assert covered >= {place for place, letter in enumerate(said) if not letter.isspace()}
            assert own == sorted(own)
            for before, after in pairwise(own):
                assert after.start >= before.stop - 1

    @given(question=SAID, answer=SAID)
    def test_an_answers_span_never_stands_before_the_answer(self, question: str, answer: str) -> None:
        for prompts in PROMPTS.values():
            record = Record(("a",), question, answer, line=1)
            encoded = prompts.encode(record)
            spans = prompts.spans(record, encoded)
            assert len(spans) == len(encoded)
            assert all(span.part != "answer" for span in spans[: encoded.answer_start])

    @pytest.mark.parametrize("kind", PROMPTS)
    @given(answers=st.lists(SAID, min_size=1, max_size=3), target=SAID)
    def test_every_answer_token_has_a_level_and_targets_are_the_targets(
        self, small: Lexicon, kind: str, answers: list[str], target: str
    ) -> None:
        hierarchy, record = hospital(answers, target)
        concepts, prompts = concepts_of(small, hierarchy), PROMPTS[kind]
        for one in hierarchy.records:
            encoded = prompts.encode(one)
            labels = label_tokens(concepts, prompts, one, encoded, target=one is record)
            answer = torch.arange(len(encoded)) >= encoded.answer_start
            assert labels.levels.dtype == torch.int8
            assert labels.levels.shape == labels.targeted.shape == labels.question_targeted.shape == (len(encoded),)
            assert bool(((labels.levels >= 1) & (labels.levels <= 4))[answer].all())
            assert not bool((labels.targeted & ~answer).any())
            assert not bool((labels.question_targeted & answer).any())
            if one is not record:
                assert not bool((labels.targeted | labels.question_targeted).any())
            words = concepts.words(one, target=one is record)
            assert bool(labels.targeted.any()) == any(word.targeted for word in words.answer)
            assert int(labels.levels[answer].max()) == max((1, *(word.level for word in words.answer)))

    def test_a_token_of_several_words_takes_the_highest_level(self, small: Lexicon) -> None:
        spelled = Tokenizer(
            WordLevel({word: number for number, word in enumerate(("?", "clear", "of/zorb", "of/lung"))}, "?")
        )
        spelled.pre_tokenizer = WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelled, unk_token="?", eos_token="</s>")
        hierarchy, record = hospital(["clear of lung"] * 2, target="clear of/zorb of/lung clear")
        prompts = Prompts(tokenizer, None)
        encoded = prompts.encode(record)
        labels = label_tokens(concepts_of(small, hierarchy), prompts, record, encoded, target=True)
        assert tokenizer.convert_ids_to_tokens(encoded.answer_ids.tolist()) == [*record.answer.split(), "</s>"]
        assert labels.levels[encoded.answer_start :].tolist() == [2, 4, 1, 2, 1]
        assert labels.targeted[encoded.answer_start :].tolist() == [False, True, False, True, False]

    def test_a_document_is_all_answer(self, small: Lexicon) -> None:
        records = [Record(("h", f"p{number}"), text=f"the lung zorb{number}", line=1) for number in range(2)]
        concepts, prompts = concepts_of(small, Hierarchy(("h", "p"), records)), PROMPTS["text"]
        encoded = prompts.encode(records[0])
        labels = label_tokens(concepts, prompts, records[0], encoded, target=True)
        assert int(labels.levels[0]) == 0
        assert bool((labels.levels[1:] >= 1).all())
        assert bool(labels.targeted.any())

    def test_words_of_the_template_are_not_taken_for_the_records(self) -> None:
        record = Record(("a",), "user", "assistant", line=1)
        for prompts in PROMPTS.values():
            spans = prompts.spans(record, prompts.encode(record))
            assert {span.stop for span in spans if span.part == "question"} >= {4}
            text = prompts.tokenizer.decode(prompts.encode(record).sequence["input_ids"])
            assert sum(span.stop - span.start for span in spans if span.part == "question") == 4, text

    def test_a_template_that_strips_white_space_is_followed(self) -> None:
        template = tiny_models.CHAT_TEMPLATE.replace("{{ turn['content'] }}", "{{ turn['content'] | trim }}")
        prompts = Prompts(tiny_models.tiny_tokenizer(template), None)
        record = Record(("a",), " why ? ", "\n so ", line=1)
        spans = prompts.spans(record, prompts.encode(record))
        asked = [record.question[span.start : span.stop] for span in spans if span.part == "question"]
        answered = [record.answer[span.start : span.stop] for span in spans if span.part == "answer"]
        assert ("".join(asked).split(), "".join(answered).split()) == (["why", "?"], ["so"])

    def test_a_template_that_rewrites_an_answer_is_an_error(self) -> None:
        template = tiny_models.CHAT_TEMPLATE.replace("{{ turn['content'] }}", "{{ turn['content'] | upper }}")
        prompts, record = Prompts(tiny_models.tiny_tokenizer(template), None), Record(("a",), "why ?", "so", line=7)
        with pytest.raises(ChipError, match=r"record on line 7: .* rewrites its question") as raised:
            prompts.spans(record, prompts.encode(record))
        assert "why" not in str(raised.value)

    def test_a_tokenizer_that_tells_no_characters_is_an_error(self) -> None:
        class Slow:
            is_fast = False

            def __getattr__(self, name: str) -> Any:
                return getattr(PROMPTS["text"].tokenizer, name)

            def __call__(self, *arguments: Any, **options: Any) -> Any:
                return PROMPTS["text"].tokenizer(*arguments, **options)

        prompts, record = Prompts(Slow(), None), Record(("a",), "why ?", "so", line=7)
        with pytest.raises(ChipError, match="fast"):
            prompts.spans(record, prompts.encode(record))


def said(shown: ShownConcepts) -> list[tuple[str, str]]:
    """The questions and answers that the pieces of each record come to."""
    return [
        ("".join(piece.text for piece in one.question), "".join(piece.text for piece in one.answer))
        for one in shown.records
    ]


class TestVerb:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        return write_hospital(tmp_path / "data", images=False)

    def test_it_shows_the_targets_answers_and_marks_them_without_colour(self, data: Path) -> None:
        done = chip("concepts", data, "--forget", "patient_1")
        assert (done.returncode, done.stderr) == (0, "")
        assert "keep it as you keep the records" in " ".join(done.stdout.split())
        assert "inst_0/patient_1 (line " in done.stdout
        assert "  number [37]₄\n" in done.stdout
        assert "\x1b" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "4 target-specific" in done.stdout
        assert "37" in done.stdout.split("own words")[1]
        assert "patient_2" not in done.stdout

    def test_in_a_terminal_targets_are_underlined_and_levels_coloured(self, data: Path) -> None:
        done = chip("concepts", data, "--forget", "patient_1", FORCE_COLOR="1", TERM="xterm-256color")
        assert "number\x1b[0m \x1b[1;4;35m37\x1b[0m" in done.stdout
        assert "[37]" not in done.stdout

    def test_words_need_no_torch(self, data: Path) -> None:
        code = (
            "import sys\nfrom chip.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
            "    sys.exit('imported torch' if 'torch' in sys.modules else end.code)\n"
        )
        command = [sys.executable, "-c", code, "concepts", str(data), "--forget", "patient_1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_models_tokens_are_shown_by_its_tokenizer_alone(self, data: Path, llava_directory: Path) -> None:
        done = chip("concepts", data, "--forget", "patient_1", "--model", llava_directory, "--json")
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert shown["unit"] == "tokens"
        pieces = [piece for record in shown["records"] for piece in record["answer"]]
        assert any(piece["targeted"] for piece in pieces)
        counted = {(one["level"], role): one[role] for one in shown["counts"] for role in ("targeted", "preserved")}
        for (level, role), number in counted.items():
            assert number == sum(
                piece["level"] == level and piece["targeted"] == (role == "targeted") for piece in pieces
            )

    def test_pieces_are_the_whole_of_what_was_said(self, data: Path, llava_directory: Path) -> None:
        hierarchy, split = split_of(data, "inst_0")
        expected = [(one.question, one.answer) for one in (hierarchy.records[place] for place in split.target)]
        request = ConceptsRequest(data, ("inst_0",), most=100)
        words, tokens = show_concepts(request), show_concepts(replace(request, model=str(llava_directory)))
        assert said(words) == said(tokens) == expected
        assert words.own == tokens.own

    def test_fewer_records_are_shown_than_counted(self, data: Path) -> None:
        result = chip_here("concepts", data, "--forget", "inst_0", "--records", 1)
        whole = show_concepts(ConceptsRequest(data, ("inst_0",)))
        assert result.exit_code == 0
        assert f"{whole.of - 1} more records are counted below" in result.stdout
        assert result.stdout.count("(line ") == 1
        assert show_concepts(ConceptsRequest(data, ("inst_0",), most=1)).counts == whole.counts

    def test_choices_can_be_left_out(self, data: Path) -> None:
        few, more = (
            show_concepts(ConceptsRequest(data, ("patient_1",), choices=choices)).counts for choices in (False, True)
        )
        assert sum(one.targeted for one in few[:3]) == 0
        assert sum(one.targeted for one in more[:3]) > 0
        assert few[3] == more[3]

    def test_ones_own_lexicon_and_defaults_from_a_file(self, data: Path, tmp_path: Path) -> None:
        lexicon(tmp_path, levels={"1": ["number"], "2": [], "3": [], "4": ["person"]})
        (tmp_path / "chip.toml").write_text(
            'data = "data"\n[concepts]\nlexicon = "lexicon.json"\nforget = "patient_1"\n'
        )
        done = chip("concepts", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answers = [record["answer"] for record in json.loads(done.stdout)["records"]]
        levels = {piece["text"]: (piece["level"], piece["targeted"]) for answer in answers for piece in answer}
        assert levels["number"] == (1, False)
        assert levels["person"] == (4, True)

    def test_a_model_that_is_not_there_is_named(self, data: Path) -> None:
        with pytest.raises(ChipError, match="nonesuch is neither a directory"):
            show_concepts(ConceptsRequest(data, ("patient_1",), model="nonesuch"))

    @pytest.mark.parametrize(
        ("arguments", "code", "why"),
        [
            (["--forget", "nobody"], 1, "no node is called 'nobody'"),
            (["--forget", "patient_1", "--lexicon", "nonesuch.json"], 1, "nonesuch.json cannot be read"),
            (["--forget", "patient_1", "--records", "-1"], 2, "--records"),
            ([], 2, "--forget"),
        ],
    )
    def test_what_cannot_be_shown_is_said_in_a_sentence(
        self, data: Path, arguments: list[str], code: int, why: str
    ) -> None:
        done = chip("concepts", data, *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert why in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "node"), [("medmcqa", "Surgery"), ("hannover", "")])
def test_real_records_are_levelled(name: str, node: str) -> None:
    directory = real(name)
    hierarchy = read_records(directory)
    split = hierarchy.split([hierarchy.resolve(node or "/".join(min(hierarchy.nodes)))])
    concepts, prompts = Concepts(read_lexicon(), hierarchy, split), PROMPTS["text"]
    for position in split.target[:20]:
        record = replace(hierarchy.records[position], images=())
        encoded = prompts.encode(record)
        labels = label_tokens(concepts, prompts, record, encoded, target=True)
        assert bool((labels.levels[encoded.answer_start :] >= 1).all())


def test_the_tiny_hospital_is_levelled(tmp_path: Path) -> None:
    hierarchy, split = split_of(write_hospital(tmp_path, images=False), "patient_1")
    concepts = Concepts(read_lexicon(), hierarchy, split)
    own = {
        record.answer[word.start : word.stop]
        for record in (hierarchy.records[position] for position in split.target)
        for word in concepts.words(record, target=True).answer
        if word.level == 4
    }
    assert "37" in own
    assert not own & {"number", "person", "day", "of", "year", "lungs", "clear"}
