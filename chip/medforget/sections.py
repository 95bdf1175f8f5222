"""Divides a radiology report into its sections, and loses none of its text.

Headings stand at the beginning of a line (`FINDINGS:`, `Findings:`), alone on one (`IMPRESSION`), or within one, in
capitals and after a full stop or two spaces (`… two views.  FINDINGS: …`). Spellings that are known (spellings.py) say
which section begins; any other heading in capitals at the beginning of a line ends one, and opens one of another kind.
A time (10:45) opens nothing, nor does a word without a colon inside a sentence.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from chip.medforget.spellings import FINDINGS, IMPRESSION, OTHER, known_kind, names_a_place

LONGEST_HEADING = 80
"""Characters: a colon further on ends no heading."""

# Every repetition is bounded or possessive, so that no text takes more than a constant for each of its characters.
_LEADING = re.compile(r"[\s\ufeff\u200b-\u200f\u2060\xad]*+")
_ORNAMENT = re.compile(r"[*#>•·]*+\s?")
_COLON = re.compile("[:：]")
_AFTER_COLON = re.compile(r"[:：]++\**+")
_DASHED = re.compile(r"[A-Z](?:[ ]?[A-Z()/&]){2,59}+[ \t]{0,3}[-–—](?=\s)")
_INNER = re.compile(r"(?:(?<=[\s.;]\s)|(?<=\t))[A-Z](?:[ ]?[A-Z()/&,+-]){2,59}+[ ]?[:：]++(?!\d)")
_HEADING_SIGNS = re.compile(r"[^\W\d_](?:[^\W_]|[ ()/&,'’#+-])*+")


@dataclass(frozen=True, slots=True)
class Section:
    """One section as it stands in the report. name: of `spellings.SECTIONS`, or "" for a heading of another kind;
    heading: as written, its colon included; body: all up to the next heading, white space as written."""

    name: str
    heading: str
    body: str

    @property
    def text(self) -> str:
        """The body with its white space joined."""
        return " ".join(self.body.split())


@dataclass(frozen=True, slots=True)
class Report:
    """A report's sections in order, and what stands before the first of them: a title, an addendum, or everything.

    The preamble followed by every heading and body is the report, character by character.
    """

    preamble: str
    sections: tuple[Section, ...]

    @property
    def text(self) -> str:
        """The report as it was parsed."""
        return self.preamble + "".join(section.heading + section.body for section in self.sections)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sections that say something, in order, each once."""
        return tuple(dict.fromkeys(one.name for one in self.sections if one.name and one.body.strip()))

    @property
    def repeated(self) -> tuple[str, ...]:
        """The names that more than one section has, in order."""
        counts = Counter(one.name for one in self.sections if one.name)
        return tuple(name for name, count in counts.items() if count > 1)

    def text_of(self, name: str) -> str:
        """What all sections of a name say, in order, with white space joined; empty where there is none."""
        return " ".join(one.text for one in self.sections if one.name == name and one.body.strip())


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    stop: int
    kind: str


def parse(text: str) -> Report:
    """Divide a report into its sections, in time linear in its length. Any text is a report, if one without sections:
    nothing is raised."""
    headings = list(_headings(text))
    ends = [one.start for one in headings] + [len(text)]
    sections = (
        Section(one.kind, text[one.start : one.stop], text[one.stop : end])
        for one, end in zip(headings, ends[1:], strict=True)
    )
    return Report(text[: ends[0]], tuple(sections))


def _headings(text: str) -> Iterator[_Heading]:
    """Where the headings stand, from the first to the last."""
    place, sentence_ended, within = 0, True, OTHER
    for line in text.splitlines(keepends=True):
        if line.isspace():
            place, sentence_ended = place + len(line), True
            continue
        found = _opening(line, sentence_ended=sentence_ended, within=within)
        for one in [*([found] if found else []), *_inner(line, found.stop if found else 0)]:
            within = one.kind
            yield _Heading(place + one.start, place + one.stop, one.kind)
        place += len(line)
        sentence_ended = line.rstrip()[-1] in ".!?:;"


def _opening(line: str, *, sentence_ended: bool, within: str) -> _Heading | None:
    """The heading that a line begins with. sentence_ended: whether a sentence may begin here; within: the name of the
    section that the line is in."""
    start = _end(_LEADING, line, 0)
    begin = _end(_ORNAMENT, line, start)
    colon = _COLON.search(line, begin, begin + LONGEST_HEADING)
    if colon is None:
        return _dashed(line, start) or _alone(line, start, sentence_ended=sentence_ended)
    label, stop = line[begin : colon.start()].rstrip(), _end(_AFTER_COLON, line, colon.start())
    if label[-1:].isdigit() and line[stop : stop + 1].isdigit():
        return _dashed(line, start)
    kind = known_kind(label)
    if kind is None:
        return _dashed(line, start) or _unknown(label, start, stop, within)
    return _Heading(start, stop, kind) if _begins(label, sentence_ended=sentence_ended) else None


def _begins(label: str, *, sentence_ended: bool) -> bool:
    """Whether a known spelling is a heading here, and not the word at the end of a sentence that was broken."""
    return sentence_ended or not label[:1].islower()


def _unknown(label: str, start: int, stop: int, within: str) -> _Heading | None:
    """A heading that is known by its capitals alone; in findings, one that names a place belongs to them."""
    letters = [sign for sign in label if sign.isalpha()]
    if len(letters) < 3 or not all(map(str.isupper, letters)) or not _HEADING_SIGNS.fullmatch(label):
        return None
    if within in (FINDINGS, IMPRESSION) and names_a_place(label):
        return None
    return _Heading(start, stop, OTHER)


def _dashed(line: str, start: int) -> _Heading | None:
    """`COMPARISON - None`: a known spelling in capitals, with a dash for a colon."""
    dashed = _DASHED.match(line, start)
    kind = known_kind(dashed.group()[:-1]) if dashed else None
    return _Heading(start, dashed.end(), kind) if dashed and kind is not None else None


def _alone(line: str, start: int, *, sentence_ended: bool) -> _Heading | None:
    """A known spelling alone on its line, without a colon."""
    label = line[start : start + LONGEST_HEADING + 1].rstrip()
    if not label or len(label) > LONGEST_HEADING or label[-1] in ".,;!?":
        return None
    if label != label.upper() and not (sentence_ended and label.lstrip("*#>•· ")[:1].isupper()):
        return None
    kind = known_kind(label)
    return _Heading(start, start + len(label), kind) if kind is not None else None


def _inner(line: str, after: int) -> Iterator[_Heading]:
    """Known spellings in capitals, with a colon, that begin a sentence within a line."""
    if _COLON.search(line, after) is None:
        return
    begin = max(after, _end(_LEADING, line, 0) + 1)
    for found in _INNER.finditer(line, begin):
        kind = known_kind(found.group().rstrip(":："))
        if kind is not None:
            yield _Heading(found.start(), found.end(), kind)


def _end(pattern: re.Pattern[str], line: str, start: int) -> int:
    found = pattern.match(line, start)
    return found.end() if found else start
