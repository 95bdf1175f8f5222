"""Reads a plain export: a CSV or JSONL table, a row for an image, the report in it or in a file that it names.

Columns: patient_id, study_id, and of image and report (or report_path) at least one; institution_id, view and
label:NAME as there are any. Rows of a study make one study, wherever they stand.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from chip.errors import ChipError
from chip.medforget import kinds
from chip.medforget.export import Kept, Picture, Problems, Study
from chip.medforget.places import inside, is_node_name, shown
from chip.medforget.reports import decoded
from chip.medforget.tables import is_json_lines, rows

NEEDED = ("patient_id", "study_id")
SHOWING = ("image", "report", "report_path")
"""At least one of these columns must be there."""
LABEL = "label:"
LAYOUT = f"a CSV or JSONL with the columns {', '.join(NEEDED)} and one of {', '.join(SHOWING)}"

_LABELS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0}


@dataclass(slots=True)
class _Gathered:
    """What the rows of a study have said so far."""

    institution: str = ""
    labels: dict[str, float] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    """Views by path."""
    report: Path | Kept | None = None


class PlainExport:
    """The studies of a table, by patient, then by name.

    The table is read once, when it is opened, and everything wrong is counted then. The reports that it holds wait in a
    temporary file without a name, so that memory holds ids and paths alone.
    """

    def __init__(self, table: Path, problems: Problems) -> None:
        """Raises ChipError where the table cannot be read, lacks a column, or leaves no study."""
        self.kind = "JSONL" if is_json_lines(table) else "CSV"
        self._texts: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the export
        self._patients = _Gathering(table, self._texts, problems).all()
        if not self._patients:
            raise ChipError(f"{table} leaves no study to read; {_reason(problems)}")

    def studies(self) -> Iterator[Study]:
        """The studies; nothing is counted anew, so that they may be gone through again."""
        for patient in sorted(self._patients):
            for name, found in sorted(self._patients[patient].items()):
                yield Study(
                    patient=patient,
                    name=name,
                    institution=found.institution,
                    report=found.report,
                    pictures=tuple(Picture(Path(path), view) for path, view in found.images.items()),
                    labels=found.labels,
                )


Patients = dict[str, dict[str, _Gathered]]


class _Gathering:
    """Puts the rows of a table together, study by study."""

    def __init__(self, table: Path, texts: IO[bytes], problems: Problems) -> None:
        self._table, self._texts, self._problems = table, texts, problems
        self._root = table.resolve().parent
        self._patients: Patients = {}
        self._owners: dict[str, str] = {}
        """The patient of every study, "" where several claim it."""
        self._institutions: dict[str, str | None] = {}
        """The institution of every patient, None where several claim the patient."""

    def all(self) -> Patients:
        """The studies by patient, without those of which it cannot be known whose they are."""
        for line, row in rows(self._table, NEEDED, self._problems):
            self._add(f"{self._table.name}, line {line}", row)
        studies = sorted(name for name, patient in self._owners.items() if not patient)
        patients = sorted(name for name, place in self._institutions.items() if place is None)
        for kind, names in ((kinds.SHARED_STUDY, studies), (kinds.SHARED_PATIENT, patients)):
            for name in names:
                self._problems.add(kind, name)
        kept = {patient: self._own(patient) for patient in self._patients if self._institutions[patient] is not None}
        if (studies or patients) and not any(kept.values()):
            first = (studies or patients)[0]
            raise ChipError(
                f"{self._table}: of no study it can be known whose it is, {first} among them; make the ids unique"
            )
        return {patient: found for patient, found in kept.items() if found}

    def _own(self, patient: str) -> dict[str, _Gathered]:
        """The studies that are a patient's alone, with the patient's institution."""
        found = {name: one for name, one in self._patients[patient].items() if self._owners[name]}
        for one in found.values():
            one.institution = self._institutions[patient] or ""
        return found

    def _add(self, where: str, row: Mapping[str, object]) -> None:
        ids = [_identity(row.get(name)) for name in (*NEEDED, "institution_id")]
        patient, study, institution = ids
        if patient is None or study is None or institution is None:
            self._problems.add(kinds.MALFORMED_ROW, where)
            return
        if not is_node_name(patient) or not is_node_name(study) or not (institution == "" or is_node_name(institution)):
            self._problems.add(kinds.NO_NODE_NAME, where)
            return
        if self._owners.setdefault(study, patient) != patient:
            self._owners[study] = ""
        known = self._institutions.setdefault(patient, institution)
        if institution and known != institution:
            self._institutions[patient] = None if known != "" else institution
        found = self._patients.setdefault(patient, {}).setdefault(study, _Gathered())
        self._add_labels(found, where, row)
        self._add_image(found, where, row)
        self._add_report(found, where, study, row)

    def _add_labels(self, found: _Gathered, where: str, row: Mapping[str, object]) -> None:
        """A study's labels, of which it has one each."""
        differs = False
        for column, value in row.items():
            said = _text(value).strip()
            if not column.startswith(LABEL) or not said:
                continue
            label = _LABELS.get(said)
            if label is None:
                self._problems.add(kinds.MALFORMED_ROW, f"{where}, column {shown(column)}")
            else:
                differs |= found.labels.setdefault(shown(column.removeprefix(LABEL)), label) != label
        if differs:
            self._problems.add(kinds.DIFFERING_ROWS, where)

    def _add_image(self, found: _Gathered, where: str, row: Mapping[str, object]) -> None:
        name = _text(row.get("image")).strip()
        path = self._path(name, where, kinds.IMAGE_NOT_THERE) if name else None
        if path is not None:
            found.images.setdefault(str(path), shown(_text(row.get("view")).strip().upper()))

    def _add_report(self, found: _Gathered, where: str, study: str, row: Mapping[str, object]) -> None:
        name = _text(row.get("report_path")).strip()
        path = self._path(name, where, kinds.REPORT_NOT_THERE) if name else None
        if path is not None and found.report != path:
            if found.report is not None:
                self._problems.add(kinds.DIFFERING_REPORTS, study)
            else:
                found.report = path
        text = _text(row.get("report"))
        if text.strip() and path is None:
            self._keep(found, study, text)

    def _keep(self, found: _Gathered, study: str, text: str) -> None:
        """Put a report's text by; a row that repeats it adds nothing."""
        told: list[str] = []
        said = decoded(_bytes(text), told.append)
        if found.report is not None:
            if isinstance(found.report, Path) or found.report.read() != said:
                self._problems.add(kinds.DIFFERING_REPORTS, study)
            return
        for kind in told:
            self._problems.add(kind, study)
        if not said.strip():
            return
        start = self._texts.seek(0, 2)
        found.report = Kept(self._texts, start, start + self._texts.write(said.encode("utf-8")))

    def _path(self, name: str, where: str, absent: str) -> Path | None:
        """A file that a row names; None, and counted, where it leaves the export or is not there."""
        path = None if Path(name).is_absolute() else inside(self._root, name)
        if path is None:
            self._problems.add(kinds.OUTSIDE, where)
        elif not path.is_file():
            self._problems.add(absent, where)
        else:
            return path
        return None


def _identity(value: object) -> str | None:
    """An id as text: JSON may hold a number; "" where there is none, None where it is nothing that could be an id."""
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        return None
    return "" if value is None else str(value).strip()


def _text(value: object) -> str:
    """A cell as text; empty where it holds nothing that could be."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return ""
    return str(value)


def _bytes(text: str) -> bytes:
    """What a cell held in its file; half a surrogate pair, which JSON may hold, becomes a question mark."""
    try:
        return text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="replace")


def _reason(problems: Problems) -> str:
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(problems.counts.items()))
    return found or "it has no rows"
