"""`chip revert`: take edits back exactly, where the base is at hand."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Force, InPlace, Json, Link, Receipt, Sign


def revert(
    edited: Annotated[Path, typer.Argument(help="The edited checkpoint.", show_default=False)],
    edits: Annotated[
        list[Path], typer.Argument(help="Edit files, in the order in which they were applied.", show_default=False)
    ],
    base: Annotated[Path, typer.Option(help="The checkpoint before these edits.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The restored checkpoint.", show_default=False)] = None,
    in_place: InPlace = False,
    receipt: Receipt = None,
    sign: Sign = None,
    link: Link = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Take edits back: their tensors become byte for byte what they were in the base."""
    from dataclasses import asdict

    from chip.cli.console import Printer
    from chip.workflow.verify import RevertRequest, carry_out_revert

    printer = Printer(json)
    done = carry_out_revert(RevertRequest(edited, tuple(edits), base, out, in_place, link, force, receipt, sign))
    printer.line(f"restored: {done.out}  (receipt: {done.receipt})")
    printer.proof(done.proof)
    printer.result(asdict(done))
