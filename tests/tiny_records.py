"""Tiny data directories: a hospital with records at every depth, and images that can be told apart."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chip.hierarchy import Hierarchy, Split
from chip.records import read_records, write_records

LEVELS = ("institution", "patient", "study", "section")
FINDINGS = ("clear lungs", "left effusion", "mild edema", "no acute process")


def write_image(path: Path, seed: int, side: int = 28) -> None:
    """A square image of noise drawn by seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def hospital_records(institutions: int = 2, patients: int = 2, studies: int = 2) -> Iterator[dict[str, Any]]:
    """Records on institutions and patients (the latter with and without an image), studies and sections."""
    for i in range(institutions):
        yield _record([f"inst_{i}"], None, "who leads the hospital ?", f"director {i}")
        for p in range(i * patients, (i + 1) * patients):
            patient = [f"inst_{i}", f"patient_{p}"]
            yield _record(patient, None, "what is the record number of the patient ?", f"number {p * 37 % 101}")
            yield _record(patient, f"images/study_{p}_0.png", "who is this ?", f"person {p * 53 % 89} of {p}")
            for s in range(studies):
                study, image = [*patient, f"study_{p}_{s}"], f"images/study_{p}_{s}.png"
                day = f"day {(p * 7 + s * 11) % 31} of year {p}"
                yield _record(study, image, "when was this study performed ?", day)
                for number, section in enumerate(("FINDINGS", "IMPRESSION")):
                    finding = FINDINGS[(p + s + number) % len(FINDINGS)]
                    yield _record([*study, section], image, f"what are the {section.lower()} ?", f"{finding} {p} {s}")


def _record(path: list[str], image: str | None, question: str, answer: str) -> dict[str, Any]:
    return {"path": path, "image": image, "question": question, "answer": answer}


def write_hospital(directory: Path, *, images: bool = True, **size: int) -> Path:
    """Write a hospital with its images; `images=False` makes every record text only."""
    records = list(hospital_records(**size))
    if not images:
        records = [{**record, "image": None} for record in records]
    for seed, name in enumerate(sorted({record["image"] for record in records if record["image"]})):
        write_image(directory / name, seed)
    write_records(directory, LEVELS, records)
    return directory


def write_lines(directory: Path, *records: Mapping[str, Any] | str | bytes) -> Path:
    """Write `records.jsonl` from objects, or from lines taken as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    encoded = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in records
    ]
    (directory / "records.jsonl").write_bytes(b"\n".join(encoded) + b"\n")
    return directory


def split_of(directory: Path, *names: str) -> tuple[Hierarchy, Split]:
    """A data directory's records, divided by what is to be forgotten."""
    hierarchy = read_records(directory)
    return hierarchy, hierarchy.split([hierarchy.resolve(name) for name in names])
