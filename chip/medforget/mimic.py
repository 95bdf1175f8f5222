"""Reads an export laid out as MIMIC-CXR and MIMIC-CXR-JPG are (Johnson et al., https://physionet.org/content/mimic-cxr).

Patients are folders such as `p10000032`, anywhere in the export; in them `s50414267.txt` is the report of a study and
`s50414267/` holds its images. The two data sets are downloaded to different folders, so that a patient may have
several; what they hold of a study is put together. Nodes are called what the folders are.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern

from chip.errors import ChipError
from chip.medforget import kinds
from chip.medforget.export import Picture, Problems, Study
from chip.medforget.mimic_tables import TABLE, Tables, read_tables
from chip.medforget.places import inside, shown

LAYOUT = "MIMIC-CXR's files/p10/p10000032/s50414267.txt and files/p10/p10000032/s50414267/*.jpg (or .dcm)"

_PATIENT = re.compile(r"p\d{3,}")
_REPORT = re.compile(r"(s\d+)\.txt")
_STUDY = re.compile(r"s\d+")
_OWN = re.compile(
    r"\..*|(LICENSE|README|SHA256SUMS|IMAGE_FILENAMES|RECORDS|index|robots|cxr-provider-list"
    r"|mimic-cxr-\d.*-test-set-labeled|mimic-cxr-reports)(\.[a-z0-9.]+)?",
    re.IGNORECASE,
)
"""Files of the published data sets that hold no study, and hidden ones: passed over in silence."""
_PREFERRED = (".jpg", ".jpeg", ".png", ".dcm")
"""Of an image that stands in several forms the first of these is taken."""


@dataclass(slots=True)
class _Files:
    """What was found of a study: its report, and its images by their ids."""

    report: str = ""
    images: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Tree:
    """What the folders outside of the patients' hold: the patients' own folders, and tables by what they are."""

    patients: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, Path] = field(default_factory=dict)


class MimicExport:
    """The studies of an export in MIMIC-CXR's layout, by patient, then by name.

    Everything is looked through and counted once, when it is opened; reports and images are not read. What stays in
    memory are ids, views and labels.
    """

    kind = "MIMIC-CXR"

    def __init__(self, root: Path, problems: Problems) -> None:
        """Raises ChipError where no patient's folder is there, or where every study's id is another patient's too."""
        self.root = root.resolve()
        tree = _look_through(self.root, problems)
        if not tree.patients:
            raise ChipError(f"{root} holds no patient's folder; looked for {LAYOUT}")
        self._patients = tree.patients
        owners, images = self._owners(problems)
        self._tables = read_tables(tree.tables, owners, images, problems)
        self._owners_of = owners

    def studies(self) -> Iterator[Study]:
        """The studies; nothing is counted anew, so that they may be gone through again."""
        for patient in sorted(self._patients):
            found = _studies_in(self.root, self._patients[patient], Problems())
            for name in sorted(found):
                if self._owners_of[name] == patient:
                    yield _study(patient, name, found[name], self._tables)

    def _owners(self, problems: Problems) -> tuple[dict[str, str], frozenset[str]]:
        """The patient of every study, "" where several claim it; and the ids of all images."""
        owners: dict[str, str] = {}
        images: set[str] = set()
        for patient in sorted(self._patients):
            for name, files in _studies_in(self.root, self._patients[patient], problems).items():
                images.update(files.images)
                owners[intern(name)] = patient if owners.get(name, patient) == patient else ""
        shared = sorted(name for name, patient in owners.items() if not patient)
        for name in shared:
            problems.add(kinds.SHARED_STUDY, name)
        if not owners:
            raise ChipError(f"{self.root} holds patients' folders but no study; looked for {LAYOUT}")
        if len(shared) == len(owners):
            raise ChipError(
                f"every study id in {self.root} belongs to several patients, {shared[0]} among them; make them unique"
            )
        return owners, frozenset(images)


def holds_patients(root: Path) -> bool:
    """Whether a folder holds a patient's folder in MIMIC-CXR's layout, with a study in it, at any depth."""
    root = root.resolve()
    patients = _look_through(root, Problems()).patients
    return any(_studies_in(root, folders, Problems()) for folders in patients.values())


def _study(patient: str, name: str, files: _Files, tables: Tables) -> Study:
    pictures = tuple(Picture(Path(files.images[one]), tables.views.get(one, "")) for one in sorted(files.images))
    return Study(
        patient=patient,
        name=name,
        report=Path(files.report) if files.report else None,
        pictures=pictures,
        labels=tables.labels_of(name),
    )


def _look_through(root: Path, problems: Problems) -> _Tree:
    tree, folders = _Tree(), [str(root)]
    while folders:
        for entry in _entries(root, folders.pop(), problems):
            if entry.is_dir(follow_symlinks=False):
                if _PATIENT.fullmatch(entry.name):
                    tree.patients.setdefault(entry.name, []).append(entry.path)
                elif not entry.name.startswith("."):
                    folders.append(entry.path)
            elif table := TABLE.fullmatch(entry.name):
                _keep_newest(tree.tables, table["what"], Path(entry.path))
            elif not _OWN.fullmatch(entry.name):
                problems.add(kinds.UNKNOWN_FILE, _where(root, entry.path))
    for places in tree.patients.values():
        places.sort()
    return tree


def _keep_newest(tables: dict[str, Path], what: str, path: Path) -> None:
    """Of a table that stands there in several versions, the newest is read; of a version, the unpacked file."""
    held = tables.get(what)
    if held is None or _newness(held) < _newness(path):
        tables[what] = path


def _newness(path: Path) -> tuple[str, bool]:
    return path.name.removesuffix(".gz"), path.suffix != ".gz"


def _studies_in(root: Path, folders: list[str], problems: Problems) -> dict[str, _Files]:
    """The studies that a patient's folders hold, by name."""
    found: dict[str, _Files] = {}
    for folder in folders:
        for entry in _entries(root, folder, problems):
            if entry.is_dir(follow_symlinks=False) and _STUDY.fullmatch(entry.name):
                files = found.setdefault(entry.name, _Files())
                _add_images(files.images, root, entry.path, problems)
            elif (report := _REPORT.fullmatch(entry.name)) and entry.is_file():
                files = found.setdefault(report[1], _Files())
                files.report = files.report or entry.path
            elif not _OWN.fullmatch(entry.name):
                problems.add(kinds.UNKNOWN_FILE, _where(root, entry.path))
    return found


def _add_images(images: dict[str, str], root: Path, folder: str, problems: Problems) -> None:
    for entry in _entries(root, folder, problems):
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() in _PREFERRED and entry.is_file() and stem.isprintable():
            held = images.get(stem)
            if held is None or _rank(entry.path) < _rank(held):
                images[stem] = entry.path
        elif not _OWN.fullmatch(entry.name):
            problems.add(kinds.UNKNOWN_FILE, _where(root, entry.path))


def _rank(path: str) -> int:
    return _PREFERRED.index(os.path.splitext(path)[1].lower())


def _entries(root: Path, folder: str, problems: Problems) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, by name, without links that lead out of the export or to folders, and without what cannot be
    read."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        problems.add(kinds.UNREADABLE_FOLDER, _where(root, folder))
        return
    for entry in entries:
        if entry.is_symlink() and inside(root, entry.path) is None:
            problems.add(kinds.OUTSIDE, _where(root, entry.path))
        elif entry.is_symlink() and entry.is_dir():
            problems.add(kinds.UNKNOWN_FILE, _where(root, entry.path))
        else:
            yield entry


def _where(root: Path, path: str) -> str:
    """A path as the summary names it: within the export, and without what cannot be printed."""
    return shown(os.path.relpath(path, root))
