"""`chip recover`: put right what an interrupted run left."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Json


def recover(
    path: Annotated[Path, typer.Argument(help="A model that was edited in place, or an output.", show_default=False)],
    json: Json = False,
) -> None:
    """Put right what an interrupted run left of a model, or beside an output. Later runs do so by themselves."""
    from chip.cli.console import Printer
    from chip.workflow.verify import carry_out_recover

    printer = Printer(json)
    done = carry_out_recover(path)
    for said in done or (f"nothing was interrupted at {path}",):
        printer.line(said)
    printer.result({"recovered": done})
