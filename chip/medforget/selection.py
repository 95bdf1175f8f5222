"""Which patients a benchmark is about, and at which institution each is: drawn by seed, whatever the export's order."""

import hashlib
from collections.abc import Iterable, Sequence

DEALT = (
    "the export names no institutions: the chosen patients, in the order of SHA-256 of 'SEED patient ID', are dealt "
    "one by one to institution_1, institution_2, and so on"
)
"""The rule by which institutions are made up, as the manifest has it."""


def in_drawn_order(names: Iterable[str], seed: int, what: str) -> list[str]:
    """Names in an order that depends on the seed and each name alone, so that more of them move none past another."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed} {what} {name}".encode()).digest(), name))


def dealt(patients: Sequence[str], institutions: int) -> dict[str, str]:
    """The institution of each patient, the patients being in drawn order."""
    return {patient: f"institution_{place % institutions + 1}" for place, patient in enumerate(patients)}
