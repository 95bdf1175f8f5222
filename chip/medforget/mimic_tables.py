"""The tables that come with MIMIC-CXR and MIMIC-CXR-JPG: views and labels, held against what is there. Any of
them may be missing, and the one of splits is passed over."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from sys import intern

from chip.medforget import kinds
from chip.medforget.export import Problems
from chip.medforget.places import shown
from chip.medforget.tables import rows

TABLE = re.compile(
    r"(?:mimic-cxr-\d[\d.]*-(?=metadata|split|chexpert|negbio)|cxr-(?=study-list|record-list))"
    r"(?P<what>[a-z]+)(?:-list)?\.csv(?:\.gz)?"
)
"""Names of tables; `what`: metadata, split, chexpert, negbio, study or record."""

_SIDEWAYS = {"LL": "LATERAL", "RL": "LATERAL"}
"""The side that lies at the detector is no other view."""
_SIGNS = {"": b" ", "1.0": b"+", "0.0": b"0", "-1.0": b"?", "1": b"+", "0": b"0", "-1": b"?"}
_MEANING = {ord("+"): 1.0, ord("0"): 0.0, ord("?"): -1.0}
_LABELLERS = ("chexpert", "negbio")
"""The first that names a study is believed."""
_IDS = frozenset(("subject_id", "study_id", "dicom_id"))


@dataclass(slots=True)
class Tables:
    """What the tables say: views by image, labels by study, and packed, one sign for each column."""

    views: dict[str, str] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The labels' names, by labeller."""
    labels: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By labeller, then by study."""

    def labels_of(self, study: str) -> dict[str, float]:
        """What was decided of a study: by CheXpert where it names the study, otherwise by NegBio."""
        for labeller in _LABELLERS:
            if study in self.labels.get(labeller, {}):
                signs = zip(self.names[labeller], self.labels[labeller][study], strict=True)
                return {name: _MEANING[sign] for name, sign in signs if sign in _MEANING}
        return {}


def read_tables(
    paths: Mapping[str, Path], owners: Mapping[str, str], images: frozenset[str], problems: Problems
) -> Tables:
    """Read the tables that are there, row by row. owners: the patient of every study that is there, "" where that is
    not known; images: the ids of those that are there.

    Raises ChipError where a table cannot be read or lacks a column.
    """
    return _Reading(owners, images, problems).all(paths)


class _Reading:
    """Tables while they are read: rows of what is not there are counted, once for each study, and left out."""

    def __init__(self, owners: Mapping[str, str], images: frozenset[str], problems: Problems) -> None:
        self._owners, self._images, self._problems = owners, images, problems
        self._absent: set[str] = set()
        self._packed: dict[bytes, bytes] = {}
        self._found = Tables()

    def all(self, paths: Mapping[str, Path]) -> Tables:
        for what in ("study", "record"):
            if what in paths:
                self._list(paths[what])
        if "metadata" in paths:
            self._metadata(paths["metadata"])
        for labeller in _LABELLERS:
            if labeller in paths:
                self._labels(labeller, paths[labeller])
        if self._found.labels:
            held = tuple(self._found.labels.values())
            self._tell(kinds.STUDY_WITHOUT_LABELS, (one for one in self._owners if not any(one in by for by in held)))
        return self._found

    def _rows(self, path: Path, *needed: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        """The rows that are about a study that is there, with the study's name."""
        for _, row in rows(path, ("subject_id", "study_id", *needed), self._problems):
            cells = {name: str(value).strip() for name, value in row.items()}
            study = intern("s" + cells["study_id"].removeprefix("s"))
            patient = "p" + cells["subject_id"].removeprefix("p")
            owner = self._owners.get(study)
            if owner is None:
                if study not in self._absent:
                    self._absent.add(study)
                    self._problems.add(kinds.STUDY_NOT_THERE, shown(study))
            elif owner and owner != patient:
                self._problems.add(kinds.OTHER_PATIENT, f"{path.name}: {study}")
            else:
                yield study, cells

    def _list(self, path: Path) -> None:
        """The lists of studies and of files are only held against what is there."""
        for study, row in self._rows(path, "path"):
            place = PurePosixPath(row["path"])
            if place.is_absolute() or ".." in place.parts:
                self._problems.add(kinds.OUTSIDE, f"{path.name}: {study}")

    def _metadata(self, path: Path) -> None:
        for _, row in self._rows(path, "dicom_id"):
            image = row["dicom_id"]
            if image not in self._images:
                self._problems.add(kinds.TABLE_IMAGE_NOT_THERE, shown(image))
                continue
            view = row.get("ViewPosition", "").upper()
            self._found.views.setdefault(image, intern(shown(_SIDEWAYS.get(view, view))))
        self._tell(kinds.IMAGE_WITHOUT_METADATA, self._images - self._found.views.keys())

    def _labels(self, labeller: str, path: Path) -> None:
        held = self._found.labels.setdefault(labeller, {})
        for study, row in self._rows(path):
            names = tuple(name for name in row if name not in _IDS)
            self._found.names[labeller] = names
            signs = [_SIGNS.get(row[name]) for name in names]
            if None in signs:
                self._problems.add(kinds.MALFORMED_ROW, f"{path.name}: {study}")
                continue
            packed = b"".join(sign for sign in signs if sign is not None)
            if study in self._found.labels.get(_LABELLERS[0], {}) and labeller != _LABELLERS[0]:
                self._compare(study, dict(zip(names, packed, strict=True)))
            else:
                # Few combinations of labels are there, and each is kept once.
                held.setdefault(study, self._packed.setdefault(packed, packed))

    def _compare(self, study: str, other: Mapping[str, int]) -> None:
        """Count the labels that both labellers decided on, and not alike; the first one's are those that are kept."""
        for name, value in sorted(self._found.labels_of(study).items()):
            if value != _MEANING.get(other.get(name, 0), value):
                self._problems.note(kinds.DIFFERING_LABELS, f"{study}: {name}")

    def _tell(self, kind: str, names: Iterable[str]) -> None:
        for name in sorted(names):
            self._problems.add(kind, shown(name))
