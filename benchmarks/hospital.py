"""Every method on synthetic hospitals of several seeds and sizes, at all four levels.

    python benchmarks/hospital.py [--work DIR] [--only "the example, patient" …] [--method NAME …] [--trials 8]

Hospitals are built under `--work`, and retrained without each target; each method then runs as the command that a user
would type. What was done is kept there and not done again, unless its command is another one by now. Writes
`benchmarks/results/hospital.md` and `.json` after every method. Some hours on one core.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from audited import QUICK, Bounds, Case, Kept, measure
from chip.hospital import HospitalPlan, build_hospital, train_model, write_records
from chip.hospital.plan import LEVELS
from commands import METHODS
from pages import write_page

from chip.cli.options import quiet_libraries
from chip.hierarchy import NodePath
from chip.records import read_records

PLANS = {
    "the example": HospitalPlan(),
    "another seed and size": HospitalPlan(seed=1, institutions=5, patients=3),
    "words in pieces": HospitalPlan(vocabulary=400, intermediate_size=384),
}
STRANGERS = HospitalPlan(seed=2)
"""Whom no model here has seen: the non-members of the membership attack."""

KNOWN = ("lakeside", "patient_123", "study_123_1", "study_123_1/INDICATION")
"""By level, the target in hospitals of the example's seed; in others it is the first of its level, in sorted order."""


def main(
    work: Annotated[Path, typer.Option(help="Where hospitals and outcomes are kept.")] = Path("build/hospitals"),
    only: Annotated[list[str] | None, typer.Option(help="Such as 'the example, patient'; all by default.")] = None,
    method: Annotated[list[str], typer.Option(help="Names as in the table; all by default.")] = list(METHODS),  # noqa: B006
    trials: Annotated[int, typer.Option(help="Edits that each method may try.")] = 8,
    seconds: Annotated[int, typer.Option(help="Seconds of the processor that a method may take.")] = 240,
    attack: Annotated[list[str], typer.Option(help="Attacks of the audit; those of a quick one by default.")] = QUICK,
) -> None:
    """Do what is not done yet, and write the results."""
    quiet_libraries()
    torch.set_num_threads(1)
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    kept, bounds = Kept(work / "outcomes.json"), Bounds(trials, seconds, tuple(attack))
    if not (work / "strangers").exists():
        write_records(work / "strangers", STRANGERS)
    every = [case for name, plan in PLANS.items() for case in cases(name, plan, work)]
    for case in every:
        if not only or f"{case.data_set}, {case.level}" in only:
            train(case, PLANS[case.data_set])
            for _ in measure(case, bounds, kept, {name: METHODS[name] for name in method}):
                page(every, kept, bounds)


def cases(name: str, plan: HospitalPlan, work: Path) -> list[Case]:
    """A case for every level; records are written, and nothing is trained yet."""
    place = work / name.replace(" ", "-")
    if not (place / "records").exists():
        write_records(place / "records", plan)
    hierarchy = read_records(place / "records")
    found = []
    for depth in (2, 3, 4, 1):
        first = min(node for node in hierarchy.nodes if len(node) == depth)
        node: NodePath = hierarchy.resolve(KNOWN[depth - 1]) if plan.seed == HospitalPlan.seed else first
        about = f"{'/'.join(node[2:] if depth == 4 else node[-1:])}, {len(hierarchy.split([node]).target)} records"
        found.append(
            Case(
                name,
                LEVELS[depth - 1],
                about,
                place / "model",
                place / "records",
                ("/".join(node),),
                place / f"without-{LEVELS[depth - 1]}",
                plan.layers,
                work / "strangers",
            )
        )
    return found


def train(case: Case, plan: HospitalPlan) -> None:
    """The model, and the model without the target, where they are not there yet."""
    build_hospital(case.model.parent, plan)
    if not case.gold.exists():
        summary = train_model(
            case.gold, case.data, plan, without=[tuple(node.split("/")) for node in case.forget], progress=False
        )
        case.gold.with_name(f"{case.gold.name}.json").write_text(json.dumps(asdict(summary)) + "\n")


def page(every: list[Case], kept: Kept, bounds: Bounds) -> None:
    """Write what is known so far."""
    notes = {f"{case.data_set}, {case.gold.name}": case.gold.with_name(f"{case.gold.name}.json") for case in every}
    trained = {name: json.loads(note.read_text()) for name, note in notes.items() if note.exists()}
    lines = [
        "Synthetic hospitals and the small LLaVA that knows each of them by heart (`PLANS` in the script); a",
        "model retrained without each target starts from the same weights. The edit sees the target's first",
        "phrasing; the second was trained on too, the third never. Non-members of the membership attack are",
        "another hospital's records.",
    ]
    models = {**trained, "plans": {name: asdict(plan) for name, plan in PLANS.items()}}
    write_page("hospital", "Every method on synthetic hospitals", lines, every, kept.found, bounds, models)


if __name__ == "__main__":
    typer.run(main)
