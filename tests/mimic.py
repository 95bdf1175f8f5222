"""Writes miniature exports as the published MIMIC-CXR and MIMIC-CXR-JPG are laid out: folders, tables with their real
columns, reports with the irregularities of real ones, small JPGs and a few DICOM files. All of it is drawn by seed."""

import csv
import gzip
import hashlib
import io
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from mimic_reports import LABELS, Drawn, draw_report
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
SIZE = 64
"""Pixels of a side."""


@dataclass(frozen=True)
class WrittenImage:
    """An image that was written, and what the metadata say of it."""

    identity: str
    path: Path
    view: str


@dataclass(frozen=True)
class WrittenStudy:
    """A study that was written: ids as the folders have them, its report as drawn, its images."""

    patient: str
    name: str
    drawn: Drawn
    images: tuple[WrittenImage, ...]
    split: str

    @property
    def folder(self) -> str:
        return f"{self.patient[:3]}/{self.patient}"


def write_mimic(
    folder: Path,
    *,
    patients: int = 8,
    studies: int = 3,
    seed: int = 0,
    dicom: int = 2,
    shape: str = "",
    apart: bool = False,
) -> tuple[WrittenStudy, ...]:
    """Write an export; `studies` to a patient, with one or two images each, the first `dicom` of which are DICOM files.

    shape: of every report, of `mimic_reports.SHAPES`; drawn where it is empty. apart: the reports in `mimic-cxr/files`
    and the images in `mimic-cxr-jpg/files`, as they are downloaded.
    """
    rng = random.Random(f"export {seed}")
    reports = folder / "mimic-cxr" / "files" if apart else folder / "files"
    images = folder / "mimic-cxr-jpg" / "files" if apart else folder / "files"
    written: list[WrittenStudy] = []
    for number in range(patients):
        patient = f"p{10_000_000 + 1_250_000 * (number % 8) + 37 * number + seed % 37}"
        split = ("train", "train", "train", "train", "train", "train", "validate", "test")[number % 8]
        for place in range(studies):
            name = f"s{50_000_000 + 1013 * (number * studies + place) + rng.randrange(1000)}"
            drawn = draw_report(rng, shape)
            path = reports / patient[:3] / patient / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(drawn.text, encoding="utf-8", newline="")
            left = dicom - sum(image.path.suffix == ".dcm" for study in written for image in study.images)
            shown = _write_images(images / patient[:3] / patient / name, drawn, f"{patient} {name}", rng, left)
            written.append(WrittenStudy(patient, name, drawn, shown, split))
    _write_own_files(folder)
    write_tables(folder / "mimic-cxr-jpg" if apart else folder, written, rng)
    return tuple(written)


def write_tables(folder: Path, studies: Sequence[WrittenStudy], rng: random.Random) -> None:
    """The tables of both data sets: some packed, some not, as people keep them."""
    folder.mkdir(parents=True, exist_ok=True)
    each = [(study, image) for study in studies for image in study.images]
    ids = [(study.patient[1:], study.name[1:]) for study in studies]
    metadata = [_metadata(study, image, rng) for study, image in each]
    splits = [(image.identity, study.name[1:], study.patient[1:], study.split) for study, image in each]
    labels = [[*pair, *label_cells(study.drawn.labels)] for pair, study in zip(ids, studies, strict=True)]
    files = [(*pair, f"files/{study.folder}/{study.name}.txt") for pair, study in zip(ids, studies, strict=True)]
    records = [
        (study.patient[1:], study.name[1:], image.identity, f"files/{study.folder}/{study.name}/{image.identity}.dcm")
        for study, image in each
    ]
    columns = ("subject_id", "study_id", *LABELS)
    write_table(folder / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA, metadata)
    write_table(folder / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    write_table(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", columns, labels)
    write_table(folder / "mimic-cxr-2.0.0-negbio.csv", columns, labels)
    write_table(folder / "cxr-study-list.csv.gz", ("subject_id", "study_id", "path"), files)
    write_table(folder / "cxr-record-list.csv.gz", ("subject_id", "study_id", "dicom_id", "path"), records)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV, gzipped where its name says so."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _metadata(study: WrittenStudy, image: WrittenImage, rng: random.Random) -> tuple[object, ...]:
    procedure = f"CHEST ({'PA AND LAT' if len(study.images) > 1 else 'PORTABLE AP'})"
    direction = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}[image.view]
    ids = (image.identity, study.patient[1:], study.name[1:])
    taken = (21800506, f"{rng.randrange(235959)}.{rng.randrange(1000)}")
    return *ids, procedure, image.view, SIZE, SIZE, *taken, procedure, direction, "Erect"


def draw_film(rng: random.Random, *, lateral: bool = False) -> npt.NDArray[np.float64]:
    """A film in [0, 1], bright where it is dense: two lungs, a heart, and spots that differ from film to film."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    film = np.full((SIZE, SIZE), 0.75)
    for side in (-0.45, 0.45) if not lateral else (0.1,):
        film -= 0.5 * np.exp(-(((x - side) / (0.3 + 0.05 * rng.random())) ** 4) - ((y / 0.7) ** 4))
    film += 0.3 * np.exp(-(((x - 0.1) / 0.25) ** 2) - (((y - 0.35) / 0.3) ** 2))
    for _ in range(rng.randint(1, 4)):
        left, top, size = rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7), rng.uniform(0.05, 0.2)
        film += rng.uniform(0.1, 0.4) * np.exp(-(((x - left) ** 2 + (y - top) ** 2) / size**2))
    film += np.random.default_rng(rng.getrandbits(32)).normal(scale=0.02, size=film.shape)
    return np.clip(film, 0, 1)


def write_dicom(
    path: Path, film: npt.NDArray[np.float64], *, inverted: bool = False, bits: int = 12, windowed: bool = True
) -> Dataset:
    """A DICOM file of a film in [0, 1], uncompressed, of `bits` stored in 16. inverted: MONOCHROME1; windowed: the
    middle half of the values fills the window. The data set is returned, to be changed and saved anew."""
    top = (1 << bits) - 1
    stored = np.round((1 - film if inverted else film) * (top / 2) + top / 4).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.PatientID = dataset.PatientName = ""
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = film.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    if windowed:
        dataset.WindowCenter, dataset.WindowWidth = [top / 2, top / 4], [top / 2, top]
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def _write_images(folder: Path, drawn: Drawn, seed: str, rng: random.Random, dicom: int) -> tuple[WrittenImage, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, view in enumerate(rng.choice((("PA", "LATERAL"), ("AP",)))):
        digits = hashlib.sha256(f"{seed} {number} {drawn.text}".encode()).hexdigest()
        identity = "-".join(digits[8 * part : 8 * part + 8] for part in range(5))
        film = draw_film(rng, lateral=view == "LATERAL")
        path = folder / f"{identity}{'.dcm' if number < dicom else '.jpg'}"
        if path.suffix == ".dcm":
            write_dicom(path, film, inverted=dicom % 2 == 1)
        else:
            Image.fromarray((film * 255).astype(np.uint8)).save(path, quality=90)
        found.append(WrittenImage(identity, path, view))
    return tuple(found)


def label_cells(labels: dict[str, float]) -> list[str]:
    return [str(labels[one]) if one in labels else "" for one in LABELS]


def _write_own_files(folder: Path) -> None:
    for name in ("LICENSE.txt", "README", "SHA256SUMS.txt", "index.html"):
        (folder / name).write_text("of the data set\n")
