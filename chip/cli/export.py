"""`chip export`: an edit in the form that other tools load."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Json


def export(
    edit: Annotated[Path, typer.Argument(help="An edit file, from --edit-out.", show_default=False)],
    peft: Annotated[
        Path, typer.Option(help="Directory of the PEFT LoRA adapter to write.", envvar="CHIP_PEFT", show_default=False)
    ],
    base: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint that it is for: checked, and named in the adapter; --method chip needs it.",
            envvar="CHIP_BASE",
            show_default=False,
        ),
    ] = None,
    transfer: Annotated[
        bool, typer.Option(help="Derive the edit anew where the base is not the one it was solved on.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Replace an adapter that exists.")] = False,
    json: Json = False,
) -> None:
    """Write an edit as a PEFT LoRA adapter, which makes the base answer as the edited model does. Keep it private."""
    from chip.cli.console import Printer
    from chip.workflow.export import export_adapter

    printer = Printer(json)
    adapted = export_adapter(edit, peft, base=base, transfer=transfer, force=force)
    ranks = [one.rank for one in adapted]
    printer.line(f"{len(adapted)} tensors, of ranks {min(ranks)} to {max(ranks)}")
    printer.line(f"written: {peft}")
    printer.result({"out": str(peft), "ranks": {one.parameter: one.rank for one in adapted}})
