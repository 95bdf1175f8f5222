"""`chip medforget unpack`: a folder in the published parquet layout made a data directory."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Json


def unpack(
    parquet: Annotated[
        Path, typer.Argument(help="Folder of {level}_level/*.parquet, or one parquet file.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Data directory to write; must not exist.", show_default=False)],
    strict: Annotated[bool, typer.Option("--strict", help="The first malformed row is an error.")] = False,
    json: Json = False,
) -> None:
    """Make a data directory, with its forget sets, of the published MedForget parquet layout."""
    from chip.cli.console import Printer
    from chip.medforget.unpack import unpack as carry_out

    printer = Printer(json)
    done = carry_out(parquet, out, strict=strict)
    for kind, count in done.problems.counts.items():
        printer.notice(f"{kind}: {count}, such as {', '.join(done.problems.examples[kind])}")
    printer.line(f"{done.records} records and {done.images} images in {done.out}")
    for level, names in done.sets.items():
        printer.line(f"{level} level: forget set{'s' if len(names) > 1 else ''} {', '.join(names)}")
    printer.result(done.as_json())
