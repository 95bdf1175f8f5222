"""Reading tables row by row: CSV and JSON lines, gzipped or not, in UTF-8 or what else spreadsheets write."""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import AnyStr, Protocol, Self

from chip.errors import ChipError
from chip.medforget import kinds
from chip.medforget.export import Problems

LONGEST_CELL = 16 << 20
"""Characters of one cell: more is a quote that is never closed."""
LONGEST_LINE = 32 << 20
"""Bytes of a JSON line, or characters of a line of a CSV."""

Row = tuple[int, Mapping[str, object]]
"""Where a row stands in its file, from 1, and its values by column; those of a CSV are text.

Bytes that are no UTF-8 stand in text as surrogates (`surrogateescape`), for whoever wants the text to decode.
"""


class _Cells(Protocol):
    """What the csv module reads with."""

    def __next__(self) -> list[str]: ...


class _Lines:
    """The lines of a CSV, and the `number` of the last; one that is too long is an error of the csv module."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self.number = text, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = _line(self._text.readline, "\r\n")
        if line == "":
            raise StopIteration
        self.number += 1
        if line is None:
            raise csv.Error(f"line of more than {LONGEST_LINE:,} characters")
        return line


_PIECE = 1 << 16
_LOOKED_AT = 100
"""JSON lines that are read to know the columns."""
_GZIP = b"\x1f\x8b"


def is_json_lines(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".jsonl")


def columns(path: Path) -> tuple[str, ...]:
    """The columns of a table: a CSV's header, or the keys of the first JSON lines. Raises ChipError where the file
    cannot be read; a file without any has none."""
    with _explained(path):
        if is_json_lines(path):
            first = islice(_json_rows(path, Problems()), _LOOKED_AT)
            return tuple(dict.fromkeys(name for _, row in first for name in row))
        with _lines(path) as lines:
            return _header(csv.reader(lines, strict=True), path)


def rows(path: Path, needed: Sequence[str], problems: Problems) -> Iterator[Row]:
    """A table's rows, one at a time; malformed ones are counted and left out.

    Raises ChipError where the file cannot be read, or where a CSV has no column of a name that is needed.
    """
    with _explained(path):
        yield from _json_rows(path, problems) if is_json_lines(path) else _csv_rows(path, needed, problems)


def _csv_rows(path: Path, needed: Sequence[str], problems: Problems) -> Iterator[Row]:
    with _lines(path) as lines:
        reader = csv.reader(lines, strict=True)
        header = _header(reader, path)
        missing = [name for name in needed if name not in header]
        if missing:
            there = f"it has {', '.join(header)}" if header else "it has none"
            raise ChipError(f"{path} has no column {' and no column '.join(missing)}; {there}")
        while True:
            try:
                cells = _next(reader)
            except csv.Error:
                problems.add(kinds.MALFORMED_ROW, f"{path.name}, line {lines.number}")
                continue
            if cells is None:
                return
            if len(cells) == len(header):
                yield lines.number, dict(zip(header, cells, strict=True))
            elif cells:
                problems.add(kinds.MALFORMED_ROW, f"{path.name}, line {lines.number}")


def _json_rows(path: Path, problems: Problems) -> Iterator[Row]:
    with _opened(path) as handle:
        for number, line in enumerate(iter(lambda: _line(handle.readline, b"\n"), b""), start=1):
            if line is not None and not line.strip():
                continue
            try:
                # A line that was too long is no row either.
                row = json.loads(line.decode("utf-8-sig", errors="surrogateescape")) if line is not None else None
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                problems.add(kinds.MALFORMED_ROW, f"{path.name}, line {number}")


def _line(read: Callable[[int], AnyStr], ends: AnyStr) -> AnyStr | None:
    """The next line of a file, empty at its end; None for one that is too long, which is passed over piece by piece.
    read: the file's `readline`; ends: the signs that may end a line."""
    line = read(LONGEST_LINE)
    if len(line) < LONGEST_LINE or line[-1:] in ends:
        return line
    while (piece := read(_PIECE)) and piece[-1:] not in ends:
        pass
    return None


def _header(reader: _Cells, path: Path) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in _next(reader) or ())
    except csv.Error as problem:
        raise ChipError(f"{path}: its first line is no header of a CSV ({problem})") from problem


def _next(reader: _Cells) -> list[str] | None:
    """The next row of a CSV; None at its end. The limit that the module keeps for all is given back after each."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        return next(reader)
    except StopIteration:
        return None
    finally:
        csv.field_size_limit(before)


@contextmanager
def _lines(path: Path) -> Iterator[_Lines]:
    with _opened(path) as handle:
        encoding = "utf-16" if handle.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        with io.TextIOWrapper(handle, encoding=encoding, errors="surrogateescape", newline="") as text:
            yield _Lines(text)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    """A file's bytes, unpacked where they begin as gzip does, whatever the file is called."""
    with path.open("rb") as handle:
        packed = handle.peek(2)[:2] == _GZIP
        if not packed:
            yield handle
            return
        with gzip.GzipFile(fileobj=handle) as unpacked:
            yield unpacked


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise ChipError(f"{path} cannot be read as a table ({reason}); put it right or take it out") from problem
