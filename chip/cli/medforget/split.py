"""`chip medforget split`: forget sets for a data directory."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.medforget.options import Disjoint, Levels, MinSiblings, Sizes
from chip.cli.options import Json, Seed


def split(
    data: Annotated[Path, typer.Argument(help="Data directory with records.jsonl.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File to write; DATA/splits.json by default.")] = None,
    level: Levels = None,
    sizes: Sizes = "0.1",
    disjoint: Disjoint = False,
    min_siblings: MinSiblings = 2,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of splits that is there.")] = False,
    json: Json = False,
) -> None:
    """Choose what is to be forgotten at each level, so that every target keeps two retained siblings."""
    from chip.cli.console import Printer
    from chip.cli.medforget.view import show_splits
    from chip.medforget.splits import as_json, read_sizes
    from chip.workflow.medforget.split import SplitRequest, carry_out_split

    printer = Printer(json)
    request = SplitRequest(
        data, out, read_sizes(sizes, disjoint=disjoint, siblings=min_siblings), tuple(level or ()), seed, force
    )
    splits, written = carry_out_split(request)
    show_splits(printer, splits)
    printer.line(f"written: {written}")
    printer.result({"out": written, **as_json(splits)})
