"""Reading the text of a report: in whatever encoding a hospital wrote it, and never more of it than a report can be."""

from collections.abc import Callable
from pathlib import Path

from chip.medforget import kinds
from chip.medforget.export import Problems, Study
from chip.medforget.sections import Report, parse
from chip.medforget.spellings import FINDINGS, IMPRESSION

LONGEST_REPORT = 1 << 20
"""Bytes that are still read as a report: 1 MiB."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def report_of(study: Study, problems: Problems) -> Report | None:
    """A study's report, read now and divided into sections; None, and counted, where there is none to read.

    A report without a section that has a name is returned, and counted.
    """
    text = _text_of(study, problems)
    if not text:
        return None
    report = parse(text)
    if not report.names:
        problems.add(kinds.NO_SECTIONS, study.name)
    if {FINDINGS, IMPRESSION} & set(report.repeated):
        problems.add(kinds.REPEATED_SECTION, study.name)
    return report


def _text_of(study: Study, problems: Problems) -> str:
    if study.report is None:
        return _none(problems, kinds.NO_REPORT, study.name)
    if isinstance(study.report, Path):
        return read_text(study.report, problems, study.name)
    if study.report.size > LONGEST_REPORT:
        return _none(problems, kinds.LONG_REPORT, study.name)
    text = study.report.read()
    return text if text.strip() else _none(problems, kinds.NO_REPORT, study.name)


def read_text(path: Path, problems: Problems, where: str) -> str:
    """The text of a report's file; "", and counted as `where`, where it is empty, too long or cannot be read."""
    try:
        with path.open("rb") as handle:
            content = handle.read(LONGEST_REPORT + 1)
    except OSError:
        return _none(problems, kinds.UNREADABLE_REPORT, where)
    if len(content) > LONGEST_REPORT:
        return _none(problems, kinds.LONG_REPORT, where)
    text = decoded(content, lambda kind: problems.add(kind, where))
    return text if text.strip() else _none(problems, kinds.EMPTY_REPORT, where)


def decoded(content: bytes, tell: Callable[[str], None]) -> str:
    """Text from bytes: UTF-8, UTF-16 where a byte order mark says so, otherwise Windows-1252 with Latin-1 for the five
    bytes that it lacks. tell: is given the kind of problem where it was not UTF-8, or where NUL bytes were taken out.
    """
    if content.startswith(_UTF_16):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            tell(kinds.OTHER_ENCODING)
            text = _western(content)
    if "\0" in text:
        tell(kinds.NUL_BYTES)
        text = text.replace("\0", "")
    return text


def _western(content: bytes) -> str:
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _none(problems: Problems, kind: str, where: str) -> str:
    problems.add(kind, where)
    return ""
