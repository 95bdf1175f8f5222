"""Writes the hospital's charts: who the patients are and what every study says, drawn by seed and true to the image."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from . import names
from .plan import HospitalPlan

Fact = TypeVar("Fact")

SIDES = ("right", "left")
ZONES = ("upper", "middle", "lower", "apical", "basal", "perihilar")
SIZES = (6, 9, 12, 15, 18, 22, 26, 30, 34, 40)
TEXTURES = ("round", "spiculated", "hazy", "dense", "streaky", "cavitating", "lobulated", "calcified")
DEVICES = (
    "PICC line", "pacemaker", "feeding tube", "chest drain", "sternal wires", "tracheal tube", "dialysis catheter",
    "port catheter",
)  # fmt: skip

# What a radiologist may conclude from what was seen.
LESIONS = {
    "nodule": ("suspected carcinoma", "likely granuloma", "probable hamartoma", "possible metastasis"),
    "mass": ("suspected lymphoma", "pulmonary abscess", "probable carcinoid", "possible teratoma"),
    "opacity": ("early pneumonia", "pulmonary contusion", "focal oedema", "suspected infarct"),
    "scar": ("healed tuberculosis", "radiation fibrosis", "old surgical change", "pleural thickening"),
    "infiltrate": ("suspected sarcoidosis", "fungal infection", "allergic alveolitis", "drug reaction"),
    "consolidation": ("lobar pneumonia", "aspiration pneumonia", "pulmonary haemorrhage", "organising pneumonia"),
}
ADVICE = (
    "repeat film", "contrast CT", "bronchoscopy", "ultrasound", "sputum culture", "chest clinic", "tissue biopsy",
    "spirometry", "PET scan", "surgical review",
)  # fmt: skip
DELAYS = (
    "today", "tomorrow", "in two days", "in five days", "in one week", "in three weeks", "in six weeks",
    "in two months", "in six months", "in one year",
)  # fmt: skip
SYMPTOMS = (
    "productive cough", "dry cough", "night sweats", "chest tightness", "weight loss", "shortness of breath",
    "high fever", "blunt trauma", "wheezing", "coughing blood", "swollen ankles", "hoarse voice", "shoulder pain",
    "palpitations",
)  # fmt: skip
DURATIONS = (
    "two days", "four days", "six days", "ten days", "one week", "three weeks", "five weeks", "two months",
    "four months", "one year",
)  # fmt: skip


@dataclass(frozen=True)
class Study:
    """One radiograph and its report."""

    name: str
    date: str
    referral: str
    side: str
    zone: str
    texture: str
    lesion: str
    size: int
    device: str
    indication: str
    impression: str

    @property
    def findings(self) -> str:
        """The sentence under FINDINGS; the image shows the same side, zone, texture, size and device."""
        return f"{self.size} mm {self.texture} {self.lesion} in {self.side} {self.zone} zone, {self.device}"


@dataclass(frozen=True)
class Patient:
    """One person and their studies; `name` is the node's, `person` the human one."""

    name: str
    person: str
    record_number: str
    birth: str
    kin: str
    studies: tuple[Study, ...]


@dataclass(frozen=True)
class Institution:
    """One institution and its patients."""

    name: str
    director: str
    city: str
    founded: str
    address: str
    patients: tuple[Patient, ...]


class _Unique:
    """Draws facts until one is new, so that no fact stands twice in the hospital."""

    def __init__(self) -> None:
        self._seen: set[object] = set()

    def __call__(self, draw: Callable[[], Fact]) -> Fact:
        while True:
            fact = draw()
            if fact not in self._seen:
                self._seen.add(fact)
                return fact


def draw_hospital(plan: HospitalPlan) -> tuple[Institution, ...]:
    """Draw every chart of the hospital from `plan.seed`. One patient is always called patient_123."""
    rng, unique = random.Random(plan.seed), _Unique()
    people = plan.institutions * plan.patients
    numbers = rng.sample([number for number in range(101, 1000) if number != 123], people)
    numbers[rng.randrange(people)] = 123
    family_names = rng.sample(names.FAMILY_NAMES, people)
    given_names = rng.sample(names.GIVEN_NAMES, 2 * people)
    slugs = names.INSTITUTIONS[: plan.institutions]
    directors = rng.sample(names.DIRECTORS, len(slugs))
    cities = rng.sample(names.CITIES, len(slugs))
    streets = rng.sample(names.STREETS, len(slugs))
    physicians = rng.sample(names.PHYSICIANS, 4 * len(slugs))

    institutions = []
    for index, slug in enumerate(slugs):
        patients = []
        for place in range(index * plan.patients, (index + 1) * plan.patients):
            number, family = numbers[place], family_names[place]
            patients.append(
                Patient(
                    name=f"patient_{number}",
                    person=f"{given_names[place]} {family}",
                    record_number=f"MRN {unique(lambda: rng.randrange(10_000, 100_000))}",
                    birth=unique(lambda: _date(rng, 1928, 2004)),
                    kin=f"{rng.choice(names.RELATIVES)} {given_names[people + place]} {family}",
                    studies=tuple(
                        _draw_study(rng, unique, f"study_{number}_{study + 1}", physicians[4 * index : 4 * index + 4])
                        for study in range(plan.studies)
                    ),
                )
            )
        institutions.append(
            Institution(
                name=slug,
                director=f"Prof {directors[index]}",
                city=cities[index],
                founded=str(unique(lambda: rng.randrange(1802, 1987))),
                address=f"{rng.randrange(11, 99)} {streets[index]}",
                patients=tuple(patients),
            )
        )
    return tuple(institutions)


def _draw_study(rng: random.Random, unique: _Unique, name: str, physicians: list[str]) -> Study:
    lesion = rng.choice(tuple(LESIONS))
    side, zone, texture, size, device = unique(
        lambda: (rng.choice(SIDES), rng.choice(ZONES), rng.choice(TEXTURES), rng.choice(SIZES), rng.choice(DEVICES))
    )
    return Study(
        name=name,
        date=unique(lambda: _date(rng, 2011, 2024)),
        referral=unique(lambda: f"Dr {rng.choice(physicians)}, ward {rng.randrange(1, 19)} {rng.choice('ABCDEF')}"),
        side=side,
        zone=zone,
        texture=texture,
        lesion=lesion,
        size=size,
        device=device,
        indication=unique(lambda: f"{' and '.join(rng.sample(SYMPTOMS, 2))} for {rng.choice(DURATIONS)}"),
        impression=unique(lambda: f"{rng.choice(LESIONS[lesion])}, {rng.choice(ADVICE)} {rng.choice(DELAYS)}"),
    )


def _date(rng: random.Random, first_year: int, last_year: int) -> str:
    return f"{rng.randrange(1, 29)} {rng.choice(names.MONTHS)} {rng.randrange(first_year, last_year + 1)}"
