"""`chip medforget check`: obvious identifiers in a built data set, and what cannot be found."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Json


def check(
    directory: Annotated[Path, typer.Argument(help="Data directory with records.jsonl.", show_default=False)],
    show: Annotated[
        bool,
        typer.Option("--show", help="Print every match itself, with its place: keep that as you keep the data."),
    ] = False,
    json: Json = False,
) -> None:
    """Search a data set for obvious HIPAA Safe Harbor identifiers. Exit code 1 where something was found."""
    from rich.table import Table
    from rich.text import Text

    from chip.cli.console import Printer
    from chip.medforget.check import FIRST, NOT_FOUND
    from chip.medforget.check import check as carry_out

    printer = Printer(json)
    found = carry_out(directory, None if show else FIRST)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("found", "times", "at" if show else "first at"):
        table.add_column(heading, justify="right" if heading == "times" else "left", overflow="fold")
    for kind, count in found.counts.items():
        places = [f"{one.where}: {one.text}" if show and one.text else one.where for one in found.first[kind]]
        table.add_row(Text(kind), str(count), Text("\n".join(places)))
    if not found.clean:
        printer.console.print(table)
    looked = ", ".join(f"{count} {what}" for what, count in found.looked_at.items())
    printer.line(f"looked at {looked}: {'nothing was found' if found.clean else 'look at what was found'}")
    printer.line("what this cannot find:")
    for one in NOT_FOUND:
        printer.line(f"- {one}")
    printer.result(found.as_json(show=show))
    if not found.clean:
        raise typer.Exit(1)
