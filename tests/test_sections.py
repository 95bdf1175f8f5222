"""Reports divided into sections: no text is lost, whatever it is, and headings are known however they are spelled."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mimic_reports import DIVIDED, SHAPES, draw_report

from chip.medforget.sections import Report, parse
from chip.medforget.spellings import (
    COMPARISON,
    EXAMINATION,
    FINDINGS,
    IMPRESSION,
    INDICATION,
    OTHER,
    SECTIONS,
    TECHNIQUE,
)

SPELLED = {
    EXAMINATION: ("EXAMINATION", "EXAM", "TYPE OF EXAMINATION", "STUDY", "PROCEDURE"),
    INDICATION: (
        "INDICATION", "HISTORY", "CLINICAL INFORMATION", "REASON FOR EXAM", "REASON FOR EXAMINATION",
        "CLINICAL HISTORY", "INDICATION/HISTORY", "HISTORY AND INDICATION",
    ),
    TECHNIQUE: ("TECHNIQUE", "TECHNIQUES"),
    COMPARISON: ("COMPARISON", "COMPARISONS", "COMPARISON(S)"),
    FINDINGS: ("FINDINGS", "FINDING", "BEFUND", "ＦＩＮＤＩＮＧＳ"),
    IMPRESSION: ("IMPRESSION", "IMPRESSIONS", "CONCLUSION", "SUMMARY", "OPINION", "FINAL IMPRESSION"),
    OTHER: ("WET READ", "NOTIFICATION", "RECOMMENDATION(S)", "RECOMMENDATIONS", "ADDENDUM"),
}  # fmt: skip
EVERY = [(name, spelling) for name, spellings in SPELLED.items() for spelling in spellings]
WORDS = ("the heart is normal.", "at 10:45", "no change.  Stable", "___", "compared to IMPRESSION of 11:05", "a\tb", "")
ENDS = (":", " :", "：", "", " -", ":\n", "\n")
SIGNS = ("\n", " ", "  ", "\t", "\r\n", "\f", "\x85", "\u2028", "\ufeff", "\u200b", "**", "(S)", "and", ".", *WORDS)
PIECES = st.one_of(
    st.sampled_from(sorted(spelling + end for _, spelling in EVERY for end in ENDS)),
    st.sampled_from(SIGNS),
    st.text(max_size=12),
)
REPORTS = st.lists(PIECES, max_size=30).map("".join)


def joined(text: str) -> str:
    return " ".join(text.split())


def pieces(report: Report) -> str:
    return report.preamble + "".join(section.heading + section.body for section in report.sections)


class TestNoTextIsLost:
    @given(REPORTS)
    def test_preamble_headings_and_bodies_in_order_are_the_report(self, text: str) -> None:
        assert pieces(parse(text)) == text == parse(text).text

    @given(REPORTS)
    def test_parsing_again_what_was_parsed_changes_nothing(self, text: str) -> None:
        report = parse(text)
        assert parse(report.text) == report

    @given(REPORTS)
    def test_every_body_is_found_by_its_name(self, text: str) -> None:
        report = parse(text)
        for section in report.sections:
            assert section.name in (*SECTIONS, OTHER)
            assert joined(section.body) in report.text_of(section.name)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_drawn_reports_of_every_shape_keep_their_text(self, shape: str) -> None:
        for seed in range(20):
            text = draw_report(random.Random(seed), shape).text
            assert pieces(parse(text)) == text


class TestHeadings:
    @pytest.mark.parametrize(("name", "spelling"), EVERY)
    @given(
        case=st.sampled_from((str.upper, str.capitalize, str.title, str.lower)),
        before=st.sampled_from(("", " ", "   ", "\t", "\r\n ", "\f", "\ufeff", "** ", "\xa0")),
        after=st.sampled_from((":", ": ", " :", ":\n", "::", "：", ":\r\n\r\n")),
        wide=st.booleans(),
    )
    def test_a_known_spelling_opens_its_section_whatever_case_and_spacing(
        self, name: str, spelling: str, case: object, before: str, after: str, wide: bool
    ) -> None:
        heading = case(spelling)  # type: ignore[operator]
        text = f"FINAL REPORT\n\n{before}{heading.replace(' ', '  ') if wide else heading}{after}All is well."
        (section,) = parse(text).sections
        assert (section.name, section.text) == (name, "All is well.")
        assert joined(section.heading).startswith(("** " if "**" in before else "") + joined(heading)[:3])

    @pytest.mark.parametrize(("name", "spelling"), EVERY)
    def test_a_known_spelling_in_capitals_opens_its_section_within_a_line_and_alone_on_one(
        self, name: str, spelling: str
    ) -> None:
        within = parse(f"EXAM: Chest.  {spelling}: All is well.")
        if spelling.isascii():
            assert [one.name for one in within.sections] == [EXAMINATION, name]
        alone = parse(f"EXAM\nChest\n {spelling} \nAll is well.")
        assert [(one.name, one.text) for one in alone.sections] == [(EXAMINATION, "Chest"), (name, "All is well.")]

    @pytest.mark.parametrize("heading", [
        "FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "IMPRESSION AND FINDINGS", "Findings & Impression",
        "IMPRESSION / FINDINGS", "TECHNIQUE AND FINDINGS",
    ])  # fmt: skip
    def test_a_merged_heading_counts_as_findings(self, heading: str) -> None:
        (section,) = parse(f"{heading}: All is well.").sections
        assert section.name == FINDINGS

    def test_a_heading_of_two_spellings_of_one_section_opens_it(self) -> None:
        (section,) = parse("INDICATION/HISTORY: Cough.").sections
        assert section.name == INDICATION

    @pytest.mark.parametrize("text", [
        "Seen at 10:45 and at 11:05.", "10:45 seen.", "READ AT 10:45 BY PHONE", "The IMPRESSION of a mass.",
        "IMPRESSION of a mass persists.", "In the lungs findings: none.", "the heart and\nfindings: nothing else",
        "Comparison is made with ___.", "FINAL REPORT", "CHEST RADIOGRAPH", "AP: portable", "mit Befund, Lunge frei",
        "检查所见：未见异常", "no change in the\nimpression\nof a mass", "the FINDINGS: of before", "", " \n", "___",
    ])  # fmt: skip
    def test_times_and_words_in_sentences_open_nothing(self, text: str) -> None:
        assert parse(text) == Report(text, ())

    def test_an_unknown_heading_in_capitals_ends_a_section_and_opens_one_of_another_kind(self) -> None:
        report = parse("FINDINGS: Clear.\nATTENDING STATEMENT: I agree.\nIMPRESSION: None.")
        assert [one.name for one in report.sections] == [FINDINGS, OTHER, IMPRESSION]
        assert report.text_of(FINDINGS) == "Clear."

    def test_paragraphs_that_name_a_place_stay_in_the_findings(self) -> None:
        report = parse("FINDINGS:\nLUNGS AND PLEURA: Clear.\nHEART: Normal.\nIMPRESSION: None.")
        assert report.text_of(FINDINGS) == "LUNGS AND PLEURA: Clear. HEART: Normal."

    def test_repeated_sections_are_joined_in_order(self) -> None:
        report = parse("FINDINGS: One.\nIMPRESSION: Two.\nFINDINGS: Three\n  four.")
        assert report.text_of(FINDINGS) == "One. Three four."
        assert report.repeated == (FINDINGS,)
        assert report.names == (FINDINGS, IMPRESSION)

    def test_an_empty_section_says_nothing(self) -> None:
        report = parse("FINDINGS:\nIMPRESSION: None.")
        assert report.names == (IMPRESSION,)
        assert report.text_of(FINDINGS) == ""

    @pytest.mark.parametrize("shape", DIVIDED)
    def test_findings_and_impression_of_a_drawn_report_are_what_was_drawn(self, shape: str) -> None:
        for seed in range(20):
            drawn = draw_report(random.Random(seed), shape)
            report = parse(drawn.text)
            assert report.text_of(FINDINGS) == joined(drawn.findings)
            assert report.text_of(IMPRESSION) == joined(drawn.impression)

    def test_a_report_without_headings_is_all_preamble(self) -> None:
        drawn = draw_report(random.Random(0), "no sections")
        assert parse(drawn.text) == Report(drawn.text, ())


@pytest.mark.parametrize("piece", [
    " ", "  A", "A: ", "FINDINGS", ". FINDINGS:", "*", "AND/", ":", "(S)", "\t", "\u200b", "A" * 79 + ":\n",
    "A B " * 15, "- ", "FINDINGS AND ",
])  # fmt: skip
def test_five_megabytes_of_anything_are_parsed(piece: str) -> None:
    text = piece * (5_000_000 // len(piece))
    assert pieces(parse(text)) == text


def test_random_megabytes_are_parsed() -> None:
    signs = random.Random(0).choices(string.ascii_uppercase + string.digits + " \n\t:.-()/&", k=2_000_000)
    text = "".join(signs)
    assert pieces(parse(text)) == text
