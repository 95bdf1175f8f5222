"""How large the example hospital is and what it is drawn from: the one value that every other module here reads."""

from __future__ import annotations

from dataclasses import dataclass

from chip.errors import ChipError

from . import names

LEVELS = ("institution", "patient", "study", "section")


@dataclass(frozen=True)
class HospitalPlan:
    """The size of a synthetic hospital and of the model that memorises it.

    Two equal plans give the same records and images, byte for byte, and on one machine the same model.

    institutions, patients, studies: how many institutions, patients in each, and studies of each patient.
    seed: draws the people, their charts, their images, the model's first weights and the order of training.
    vocabulary: most entries of the byte-level tokenizer. At 2,000 words are one token; at 400 they fall into pieces.
    hidden_size, intermediate_size, layers: width, MLP width and depth of the language model.

    Raises ChipError where a size is out of range.
    """

    institutions: int = 4
    patients: int = 4
    studies: int = 2
    seed: int = 0
    vocabulary: int = 2000
    hidden_size: int = 128
    intermediate_size: int = 512
    layers: int = 6

    def __post_init__(self) -> None:
        people = self.institutions * self.patients
        for name, value, low, high in (
            ("institutions", self.institutions, 1, len(names.INSTITUTIONS)),
            ("patients", self.patients, 1, len(names.FAMILY_NAMES)),
            ("institutions x patients", people, 1, len(names.FAMILY_NAMES)),
            ("studies", self.studies, 1, 9),
            ("vocabulary", self.vocabulary, 300, 50_000),
            ("hidden_size", self.hidden_size, 32, 1024),
            ("intermediate_size", self.intermediate_size, 32, 4096),
            ("layers", self.layers, 1, 48),
        ):
            if not low <= value <= high:
                raise ChipError(f"The hospital's {name} is {value}; choose a number from {low} to {high}.")
        if self.hidden_size % 32:
            raise ChipError(f"The hospital's hidden_size is {self.hidden_size}; choose a multiple of 32.")
