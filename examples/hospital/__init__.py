"""A synthetic hospital and a small vision-language model that knows it by heart: chip's example and test bed.

Planning the hospital and writing its records needs no torch; training loads it on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .charts import Institution, Patient, Study, draw_hospital
from .plan import LEVELS, HospitalPlan
from .records import HospitalRecord, hospital_records, read_records, write_records

if TYPE_CHECKING:
    from .building import build_hospital
    from .training import TrainingSummary, train_model

__all__ = [
    "LEVELS",
    "HospitalPlan",
    "HospitalRecord",
    "Institution",
    "Patient",
    "Study",
    "TrainingSummary",
    "build_hospital",
    "draw_hospital",
    "hospital_records",
    "read_records",
    "train_model",
    "write_records",
]

_NEEDS_TORCH = {"build_hospital": "building", "train_model": "training", "TrainingSummary": "training"}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_NEEDS_TORCH[name]}", __name__), name)
