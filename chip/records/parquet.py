"""The published MedForget layout: parquet files with one row an image and all that is asked of it at one node.

Columns `image` (a struct with `bytes`), `image_path`, `metadata` (JSON: objects with `Question` and `Answer`),
`hierarchy_metadata` (JSON: institution_id, patient_id, study_id, section_name) and `ID`; files
`{level}_level/forget_set_all.parquet` and `retain_set_all.parquet`. docs/formats.md says what of it is chip's addition.
Rows are read and written a few at a time, so that memory stays flat however many images there are.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from chip.errors import ChipError
from chip.files import private_file
from chip.hierarchy import Hierarchy, NodePath, Record, is_under
from chip.records.jsonl import DEFAULT_LEVELS

IDS = ("institution_id", "patient_id", "study_id", "section_name")
"""The keys of `hierarchy_metadata`, from the root down: a node's path."""
ONLY = "all"
"""What the one forget set of a level is called, as its files are."""

SIDES = {"forget": "forget_set_all.parquet", "retain": "retain_set_all.parquet"}
EXTRA = {"paraphrases": "Rephrased", "options": "Options", "translations": "Translations", "training": "Training"}
"""What chip adds to a pair, by its own key; a reader that does not know the names passes over them."""

_ROWS, _BYTES = 256, 32 << 20
"""What one row group may hold."""


@dataclass(frozen=True)
class ForgetSet:
    """What one forget set takes, under its level and its name: `ONLY` where the level has no other."""

    level: str
    name: str
    nodes: tuple[NodePath, ...]


@dataclass(frozen=True)
class Written:
    """What was written: rows and files over all sets, and the rows that show no image, each counted once."""

    files: int
    rows: int
    without_image: int


def library() -> ModuleType:
    """pyarrow, which only this layout needs. Raises ChipError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as problem:
        raise ChipError("parquet files need the library pyarrow: pip install 'chip-unlearning[medforget]'") from problem
    arrow: ModuleType = pyarrow
    return arrow


def write_parquet(
    directory: Path, hierarchy: Hierarchy, sets: Sequence[ForgetSet], training: Hierarchy | None = None
) -> Written:
    """Write every forget set with its retain set, which is all the other records.

    training: the same records in the same order with their training wordings. Rows hold image files' bytes as they are.
    Raises ChipError, before anything is written, for what the layout has no place for: other levels, documents, records
    that show several images; and for two sets of one name.
    """
    arrow = library()
    rows = _rows(hierarchy, training)
    folders = _folders(directory, sets)
    for one, folder in folders:
        taken = [any(is_under(row.path, node) for node in one.nodes) for row in rows]
        for side, name in SIDES.items():
            chosen = [row for row, forget in zip(rows, taken, strict=True) if forget == (side == "forget")]
            _write(arrow, folder / name, chosen)
    return Written(2 * len(folders), len(rows), sum(row.image is None for row in rows))


@dataclass(frozen=True)
class _Line:
    """A row to write; its image is read only then."""

    number: int
    path: NodePath
    image: Path | None
    pairs: tuple[Mapping[str, Any], ...]

    def cells(self) -> dict[str, Any]:
        """The row's five cells.

        A record above the sections leaves out the lower ids, and says its level: the authors' code takes that level for
        its questions, and for missing ids makes up nodes that hold none.
        """
        level = DEFAULT_LEVELS[len(self.path) - 1]
        ids = {**dict(zip(IDS, self.path, strict=False)), "hierarchy_level": level}
        return {
            "image": {"bytes": None if self.image is None else self.image.read_bytes()},
            "image_path": "" if self.image is None else "/".join((*self.path[:3], self.image.name)),
            "metadata": json.dumps(self.pairs, ensure_ascii=False),
            "hierarchy_metadata": json.dumps(ids, ensure_ascii=False),
            "ID": f"{self.number:06d}",
        }


def _rows(hierarchy: Hierarchy, training: Hierarchy | None) -> list[_Line]:
    if hierarchy.levels != DEFAULT_LEVELS:
        raise ChipError(
            f"the parquet layout has the levels {', '.join(DEFAULT_LEVELS)}, not {', '.join(hierarchy.levels)}"
        )
    if training is not None and [_said(one) for one in training.records] != [_said(one) for one in hierarchy.records]:
        raise ChipError("the training wordings are not those of the same records in the same order; build both again")
    wordings: list[tuple[str, ...]] = [()] * len(hierarchy.records)
    if training is not None:
        wordings = [(record.question, *record.paraphrases) for record in training.records]
    pairs: dict[tuple[NodePath, Path | None], list[Mapping[str, Any]]] = {}
    for record, trained in zip(hierarchy.records, wordings, strict=True):
        pairs.setdefault((record.path, _one_image(record)), []).append(_pair(record, trained))
    return [_Line(number, *shown, tuple(asked)) for number, (shown, asked) in enumerate(pairs.items())]


def _said(record: Record) -> tuple[object, ...]:
    return record.path, record.answer, record.images


def _one_image(record: Record) -> Path | None:
    if record.text is not None or len(record.images) > 1:
        what = "a document" if record.text is not None else "a record with several images"
        raise ChipError(f"line {record.line} of the records is {what}, which has no place in the parquet layout")
    return record.images[0] if record.images else None


def _pair(record: Record, training: Sequence[str]) -> Mapping[str, Any]:
    extra = {
        "Rephrased": list(record.paraphrases),
        "Options": list(record.options),
        "Translations": dict(record.translations),
        "Training": list(training),
    }
    return {
        "Question": record.question,
        "Answer": record.answer,
        **{key: value for key, value in extra.items() if value},
    }


def _folders(directory: Path, sets: Sequence[ForgetSet]) -> list[tuple[ForgetSet, Path]]:
    """Where each set goes: the only one of a level into `{level}_level`, several into folders of their names in it."""
    found = []
    for one in sets:
        if one.level not in DEFAULT_LEVELS:
            raise ChipError(
                f"a forget set is of level {one.level!r}; the parquet layout has {', '.join(DEFAULT_LEVELS)}"
            )
        names = [other.name for other in sets if other.level == one.level]
        if names.count(one.name) > 1:
            raise ChipError(f"two forget sets at level {one.level} are called {one.name!r}; give each its own name")
        if len(names) > 1 and (not one.name.isprintable() or "/" in one.name or one.name in ("", ".", "..")):
            raise ChipError(f"the forget set {one.name!r} cannot be the name of a folder; name it otherwise")
        folder = directory / f"{one.level}_level"
        found.append((one, folder / one.name if len(names) > 1 else folder))
    return found


def _write(arrow: ModuleType, path: Path, rows: Sequence[_Line]) -> None:
    schema = arrow.schema(
        [
            ("image", arrow.struct([("bytes", arrow.binary())])),
            *((name, arrow.string()) for name in ("image_path", "metadata", "hierarchy_metadata", "ID")),
        ]
    )
    with private_file(path) as partial, arrow.parquet.ParquetWriter(partial, schema) as writer:
        for group in _groups(rows):
            writer.write_batch(arrow.RecordBatch.from_pylist(group, schema=schema))


def _groups(rows: Sequence[_Line]) -> Iterator[list[dict[str, Any]]]:
    """Rows for one row group each: as many as fit into memory with ease."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        cells = row.cells()
        group.append(cells)
        size += len(cells["image"]["bytes"] or b"") + len(cells["metadata"])
        if len(group) == _ROWS or size > _BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
