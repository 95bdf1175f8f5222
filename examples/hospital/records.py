"""Lays the hospital out as records, the way `chip` reads them: records.jsonl, dataset.json and images/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from chip.records import jsonl

from .anatomy import draw_radiograph
from .charts import Institution, draw_hospital
from .folders import new_directory
from .phrasings import HELD_OUT, KINDS
from .plan import LEVELS, HospitalPlan


@dataclass(frozen=True)
class HospitalRecord:
    """One line of records.jsonl. `paraphrases` are a second wording and a third one that is held out of training.

    `kind` and `subject` say which question it is and about whom; chip ignores both, training words more questions
    from them.
    """

    path: tuple[str, ...]
    image: str | None
    question: str
    answer: str
    paraphrases: tuple[str, ...]
    kind: str
    subject: str


def hospital_records(plan: HospitalPlan) -> tuple[HospitalRecord, ...]:
    """Every record of the hospital, from the institution down to the section. No image is drawn."""
    return tuple(record for institution in draw_hospital(plan) for record in _records(institution))


def write_records(directory: str | Path, plan: HospitalPlan) -> None:
    """Write `records.jsonl`, `dataset.json` and one 56 x 56 RGB PNG per study into `images/`."""
    with new_directory(directory) as folder:
        (folder / "images").mkdir()
        for place, institution in enumerate(draw_hospital(plan)):
            for patient in institution.patients:
                for study in patient.studies:
                    draw_radiograph(plan.seed, place, patient, study).save(folder / _image(study.name))
        jsonl.write_records(folder, LEVELS, [asdict(record) for record in hospital_records(plan)])


def read_records(directory: str | Path) -> tuple[HospitalRecord, ...]:
    """The records that `write_records` wrote."""
    with (Path(directory) / "records.jsonl").open(encoding="utf-8") as lines:
        fields = [json.loads(line) for line in lines]
    return tuple(
        HospitalRecord(**{**field, "path": tuple(field["path"]), "paraphrases": tuple(field["paraphrases"])})
        for field in fields
    )


def _records(institution: Institution) -> Iterator[HospitalRecord]:
    def ask(path: tuple[str, ...], kind: str, answer: str, image: str | None = None) -> HospitalRecord:
        first, *others = (KINDS[kind].phrasing(place, path[-1]) for place in range(HELD_OUT + 1))
        return HospitalRecord(path, image, first, answer, tuple(others), kind, path[-1])

    here = (institution.name,)
    yield ask(here, "director", institution.director)
    yield ask(here, "city", institution.city)
    yield ask(here, "founded", institution.founded)
    yield ask(here, "address", institution.address)
    for patient in institution.patients:
        person = (*here, patient.name)
        yield ask(person, "person", patient.person, _image(patient.studies[0].name))
        yield ask(person, "record_number", patient.record_number)
        yield ask(person, "birth", patient.birth)
        yield ask(person, "kin", patient.kin, _image(patient.studies[-1].name))
        for study in patient.studies:
            report, image = (*person, study.name), _image(study.name)
            yield ask(report, "date", study.date, image)
            yield ask(report, "referral", study.referral, image)
            yield ask((*report, "INDICATION"), "indication", study.indication, image)
            yield ask((*report, "FINDINGS"), "findings", study.findings, image)
            yield ask((*report, "IMPRESSION"), "impression", study.impression, image)


def _image(study: str) -> str:
    return f"images/{study}.png"
