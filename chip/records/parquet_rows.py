"""Reading the published MedForget layout: what stands in a folder of parquet files, row by row."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chip.errors import ChipError
from chip.hierarchy import NodePath
from chip.records.jsonl import DEFAULT_LEVELS
from chip.records.parquet import EXTRA, IDS, ONLY, SIDES, library

_COLUMNS = ("image", "metadata", "hierarchy_metadata")
_ROWS = 8
_MAX_JSON, _MAX_IMAGE = 16 << 20, 256 << 20
"""Bytes that one row's JSON and image may have; more is no row of a benchmark, and would be held in memory."""

Report = Callable[[str, str], None]
"""Takes the kind of a problem and where it is."""


@dataclass(frozen=True)
class SetFile:
    """One parquet file: of which level and name, and on which side; all empty for a file that stands by itself."""

    path: Path
    level: str = ""
    name: str = ""
    side: str = ""


@dataclass(frozen=True)
class Row:
    """One image, or none, with what is asked about it at one node: objects in the form of `records.jsonl`, but for
    path and image; those with training wordings hold them under `training`."""

    where: str
    path: NodePath
    image: bytes | None
    asked: tuple[Mapping[str, Any], ...]


def find_sets(source: Path) -> tuple[SetFile, ...]:
    """The parquet files of a folder, in order, or the one that `source` is. Raises ChipError where there is none."""
    paths = [source] if source.is_file() else sorted(source.glob("**/*.parquet"))
    if not paths:
        raise ChipError(f"{source} holds no parquet files; name a folder of the MedForget layout, or one of its files")
    return tuple(map(_set_file, paths))


def _set_file(path: Path) -> SetFile:
    """A file's set by its name and its folder, `patient_level`, or for one of several sets a folder in that."""
    side = next((side for side, name in SIDES.items() if path.name == name), "")
    inside = path.absolute().parent
    for level in DEFAULT_LEVELS:
        folder = f"{level}_level"
        if side and inside.name == folder:
            return SetFile(path, level, ONLY, side)
        if side and inside.parent.name == folder:
            return SetFile(path, level, inside.name, side)
    return SetFile(path)


def read_rows(path: Path, report: Report) -> Iterator[Row]:
    """The rows of one file, a few in memory at a time.

    What is malformed in a row is reported and left out: a pair, or the whole row. Raises ChipError where the file is no
    parquet, lacks a column, or breaks off.
    """
    arrow = library()
    number = 0
    try:
        with arrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise ChipError(f"{path} has no column {' and '.join(missing)}: this is not the MedForget layout")
            for batch in file.iter_batches(_ROWS, columns=list(_COLUMNS)):
                for position in range(batch.num_rows):
                    number += 1
                    row = _Cells({name: batch.column(name)[position] for name in _COLUMNS}, f"{path}, row {number}")
                    yield from row.read(report)
    except (arrow.ArrowException, OSError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ChipError(
            f"{path} cannot be read as parquet after row {number} ({reason}); get the file again"
        ) from problem


class _Malformed(Exception):
    """A row that cannot be one; its text is the kind of problem."""


class _Cells:
    """The cells of one row, as the file has them."""

    def __init__(self, cells: Mapping[str, Any], where: str) -> None:
        self.cells, self.where = cells, where

    def read(self, report: Report) -> Iterator[Row]:
        try:
            path = self._path()
            asked = tuple(self._asked(report))
            image = self._image()
        except _Malformed as problem:
            report(str(problem), self.where)
            return
        if asked:
            yield Row(self.where, path, image, asked)

    def _json(self, name: str) -> Any:
        try:
            value = self.cells[name].as_py()
            if not isinstance(value, str):
                return value
            if len(value) > _MAX_JSON:
                raise _Malformed(f"rows whose {name} is longer than {_MAX_JSON >> 20} MiB")
            return json.loads(value)
        except (ValueError, RecursionError) as problem:
            raise _Malformed(f"rows whose {name} is no JSON") from problem

    def _path(self) -> NodePath:
        value = self._json("hierarchy_metadata")
        if not isinstance(value, dict):
            raise _Malformed("rows without an object in hierarchy_metadata")
        names = [_id(value.get(key)) for key in IDS]
        path = tuple(name for name in names if name)
        if not path or any(names[len(path) :]):
            raise _Malformed("rows whose hierarchy_metadata leaves out an id above another")
        level = value.get("hierarchy_level") or DEFAULT_LEVELS[len(path) - 1]
        if level not in DEFAULT_LEVELS[: len(path)]:
            raise _Malformed("rows whose hierarchy_level is no level that they have an id of")
        return path[: DEFAULT_LEVELS.index(level) + 1]

    def _image(self) -> bytes | None:
        value = self.cells["image"].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is not None and not isinstance(content, bytes):
            raise _Malformed("rows whose image is no bytes")
        if content is not None and len(content) > _MAX_IMAGE:
            raise _Malformed(f"rows whose image is larger than {_MAX_IMAGE >> 20} MiB")
        return content or None

    def _asked(self, report: Report) -> Iterator[Mapping[str, Any]]:
        pairs = self._json("metadata")
        pairs = [pairs] if isinstance(pairs, dict) else pairs
        if not isinstance(pairs, list) or not pairs:
            raise _Malformed("rows without questions and answers in metadata")
        for number, pair in enumerate(pairs, start=1):
            if isinstance(pair, dict) and pair.get("Question") and pair.get("Answer") not in (None, "", []):
                yield _asked(pair)
            else:
                report("pairs without a question or an answer", f"{self.where}, pair {number}")


def _id(value: object) -> str:
    """An id as text; empty where there is none."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Malformed("rows with an id in hierarchy_metadata that is neither text nor a number")


def _asked(pair: Mapping[str, Any]) -> Mapping[str, Any]:
    """A pair in chip's own keys. An answer in several pieces is joined, as the authors' evaluation does."""
    answer = pair["Answer"]
    spoken = " ".join(str(one) for one in answer if one) if isinstance(answer, list) else answer
    value = {"question": pair["Question"], "answer": spoken if isinstance(spoken, str) else str(spoken)}
    extra = {key: pair[name] for key, name in EXTRA.items() if pair.get(name)}
    return {**value, **extra}
