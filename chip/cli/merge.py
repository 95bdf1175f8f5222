"""`chip merge`: write a LoRA adapter into its base model."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Json, quiet_libraries


def merge(
    adapter: Annotated[str, typer.Argument(help="Directory of a LoRA adapter.", show_default=False)],
    base: Annotated[
        str, typer.Option(help="The model that it was trained on.", envvar="CHIP_BASE", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(help="Directory of the merged checkpoint.", envvar="CHIP_OUT", show_default=False)
    ],
    edit_out: Annotated[
        Path | None, typer.Option(help="Also keep what was added in this file.", envvar="CHIP_EDIT_OUT")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an output that exists and is a checkpoint.")] = False,
    json: Json = False,
) -> None:
    """Write a LoRA adapter into its base model, so that the whole can be edited; loads no model."""
    quiet_libraries()
    from chip.cli.console import Printer
    from chip.workflow.merge import merge as write

    printer = Printer(json)
    done = write(adapter, base, out, edit_out=edit_out, force=force)
    if done.left_behind:
        printer.line(f"not carried: {', '.join(done.left_behind)}")
    for notice in done.notices:
        printer.notice(notice)
    printer.line(f"written: {done.out}  (receipt: {done.receipt})")
    printer.proof(done.proof)
    printer.result(done.as_json())
