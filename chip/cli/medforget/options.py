"""The options that several verbs of the benchmark share."""

from pathlib import Path
from typing import Annotated

import typer

Sizes = Annotated[
    str,
    typer.Option(
        help="Sizes of forget sets: counts of nodes, or shares of a level's, such as 1,4,0.1.",
        envvar="CHIP_MEDFORGET_SIZES",
    ),
]
Disjoint = Annotated[
    bool, typer.Option("--disjoint/--nested", help="Forget sets share no node; else each holds those before it.")
]
MinSiblings = Annotated[
    int, typer.Option(help="Retained nodes of its level that every target keeps beside it, under the same parent.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Anything wrong with the input is an error.")]
Levels = Annotated[
    list[str] | None,
    typer.Option(help="Level of the hierarchy; may be repeated; all by default.", show_default=False),
]
Splits = Annotated[
    Path | None,
    typer.Option(help="Forget sets; DATA/splits.json by default.", envvar="CHIP_MEDFORGET_SPLITS", show_default=False),
]
