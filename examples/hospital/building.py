"""Builds the whole example hospital, records and model, once, and reuses it after that."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from chip.errors import ChipError
from chip.files import explained

from .plan import HospitalPlan
from .records import write_records
from .training import train_model


def build_hospital(directory: str | Path, plan: HospitalPlan | None = None, progress: bool = True) -> None:
    """Write `records/` and `model/` under `directory`, beside a `hospital.json` that holds the plan.

    What is already there for the same plan is kept. Raises ChipError where `directory` holds anything of another origin
    or of another plan: nothing is ever replaced.
    """
    directory, plan = Path(directory), plan or HospitalPlan()
    note, records, model = directory / "hospital.json", directory / "records", directory / "model"
    wanted = {"plan": asdict(plan)}
    with explained(directory):
        if note.exists():
            if json.loads(note.read_text(encoding="utf-8")) != wanted:
                raise ChipError(f"{directory} holds a hospital of another plan; choose another directory or remove it")
        elif records.exists() or model.exists():
            raise ChipError(f"{directory} holds records or a model of another origin; choose another directory")

        # The note comes first: a build that was interrupted is then known to be ours and is taken up again.
        directory.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        if not records.exists():
            write_records(records, plan)
        if not model.exists():
            train_model(model, records, plan, progress=progress)
