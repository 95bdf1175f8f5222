"""`chip inspect`: what chip sees in a model and in a data directory."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Json, ModelArgument


def inspect(
    model: ModelArgument,
    data: Annotated[
        Path | None, typer.Option(help="Also show this data directory's nodes.", envvar="CHIP_DATA", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show a model's family and sites, and the nodes of a data directory; loads no weights."""
    from chip.cli.console import Printer
    from chip.inspection import inspect_data, inspect_model

    printer = Printer(json)
    nodes = inspect_data(data) if data is not None else ()
    seen = inspect_model(model)
    files = f"{seen.files} file{'s' * (seen.files > 1)}"
    printer.line(
        f"{seen.directory}: {seen.family}{'' if seen.known else ' (not in the table; found by name)'}, "
        f"{seen.layers} language layers, {seen.bytes / 2**30:.2f} GiB in {files}"
    )
    printer.line(f"{len(seen.sites)} sites:")
    for site in seen.sites:
        shape = " × ".join(map(str, site.shape))
        printer.line(f"  {site.stored}  {site.role}  {shape} {site.dtype}  in {site.file}")
    for node in nodes:
        printer.line(f"{'  ' * (len(node.path) - 1)}{node.path[-1]}  ({node.level}, records: {node.records})")
    printer.result({"model": seen.as_json(), "nodes": [node.as_json() for node in nodes]})
