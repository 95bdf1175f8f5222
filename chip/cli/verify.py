"""`chip verify`: prove at any time that a checkpoint is its base with an edit, and nothing else."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Json


def verify(
    edited: Annotated[Path, typer.Argument(help="The edited checkpoint.", show_default=False)],
    against: Annotated[Path | None, typer.Option(help="The checkpoint before the edit.", show_default=False)] = None,
    edit: Annotated[
        list[Path] | None,
        typer.Option(help="Edit file; repeated in the order in which they were applied.", show_default=False),
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option(help="Also check a receipt, and its signature if it has one.", show_default=False)
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of the key that must have signed the receipt.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Prove an edit: the edited tensors are as the edit makes them, every other byte is as before."""
    from dataclasses import asdict

    from chip.cli.console import Printer
    from chip.workflow.verify import VerifyRequest, carry_out_verify

    printer = Printer(json)
    found = carry_out_verify(VerifyRequest(edited, against, tuple(edit or ()), receipt, public_key))
    if found.proof is not None:
        printer.proof(found.proof)
    if found.receipt is not None:
        printer.line(f"the receipt is one of {edited}")
        printer.line(
            f"signed by {found.signed_by}" + ("" if public_key else " (not compared with a --public-key)")
            if found.signed_by
            else "the receipt is not signed"
        )
    printer.result(asdict(found))
