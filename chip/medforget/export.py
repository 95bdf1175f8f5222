"""An export: the studies of a hospital as a reader yields them, one at a time, and what was found wrong with them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from chip.errors import ChipError

SHOWN = 3
"""Ids that a summary names of each kind of problem."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a study: its file, a JPG, PNG or DICOM, and from which side it was taken (PA, AP, LATERAL; empty
    where the export does not say)."""

    path: Path
    view: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A report that waits on disk until it is wanted: UTF-8, in an open file, from byte `start` to `stop`."""

    file: IO[bytes]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.stop - self.start

    def read(self) -> str:
        self.file.seek(self.start)
        return self.file.read(self.size).decode("utf-8")


@dataclass(frozen=True, slots=True)
class Study:
    """One examination of a patient, by the ids of the export; `institution` is empty where the export names none.

    report: the file that holds it, or where it was put by, so that a study holds no text; None where there is none.
    labels: of each finding that a labeller decided on, 1 present, 0 absent, -1 uncertain.
    """

    patient: str
    name: str
    institution: str = ""
    report: Path | Kept | None = None
    pictures: tuple[Picture, ...] = ()
    labels: Mapping[str, float] = field(default_factory=dict)


class Export(Protocol):
    """Where studies come from. Those of one patient follow each other; ids are unique, and paths lie in the export."""

    kind: str
    """What was read, in words: `MIMIC-CXR`, `CSV`, `JSONL`."""

    def studies(self) -> Iterator[Study]: ...


class Problems:
    """What is wrong with an export: by kind how often and where. Kinds are sentences' beginnings, such as "images that
    do not decode"; where: ids or file names as the export has them, never the text of a report."""

    def __init__(self, *, strict: bool = False) -> None:
        """strict: the first problem is an error."""
        self.strict = strict
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        """Count a problem. Raises ChipError under `strict`."""
        if self.strict:
            raise ChipError(f"{kind}: {where}; put it right, or leave out --strict to have it counted and left out")
        self.note(kind, where)

    def note(self, kind: str, where: str) -> None:
        """Count what is worth knowing and no fault of the export, even under `strict`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < SHOWN:
            examples.append(where)

    def as_json(self) -> dict[str, dict[str, object]]:
        return {kind: {"count": count, "examples": self.examples[kind]} for kind, count in sorted(self.counts.items())}
