"""`chip audit`: ask two checkpoints the same records, group by group."""

from dataclasses import asdict
from typing import Annotated

import typer

from chip.cli.options import BatchSize, Data, Device, Dtype, Forget, Json, Seed, VerifyRecords, quiet_libraries


def audit(
    base: Annotated[str, typer.Argument(help="The model before the edit.", show_default=False)],
    edited: Annotated[str, typer.Argument(help="The model after it.", show_default=False)],
    forget: Forget,
    data: Data,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    verify_records: VerifyRecords = 200,
    json: Json = False,
) -> None:
    """Show what was forgotten and what was kept: exact match and answer loss by group, before and after."""
    quiet_libraries()
    from chip.cli.console import Printer
    from chip.workflow.audit import audit as ask_both

    printer = Printer(json)
    rows = ask_both(
        base,
        edited,
        data,
        forget,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        records=verify_records,
        seed=seed,
        track=printer.track,
    )
    printer.scores(rows)
    printer.result({"rows": [asdict(row) for row in rows]})
