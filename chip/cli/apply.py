"""`chip apply`: write checkpoints from edit files, without data, statistics or a model."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Force, InPlace, Json, Link, Receipt, Sign


def apply(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL… EDIT…",
            help="Checkpoints, or folders of them, then edit files in the order in which they are applied.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The new checkpoint; with several, the folder of all.", envvar="CHIP_OUT"),
    ] = None,
    in_place: InPlace = False,
    after: Annotated[
        list[Path] | None, typer.Option(help="Edit file that the model carries already; may be repeated.")
    ] = None,
    transfer: Annotated[
        bool, typer.Option(help="Derive the edit anew where the model is not the one it was solved on.")
    ] = False,
    edit_out: Annotated[
        Path | None, typer.Option(help="Also keep what was applied as one edit file.", show_default=False)
    ] = None,
    receipt: Receipt = None,
    sign: Sign = None,
    link: Link = False,
    force: Force = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read everything back and prove that nothing else changed.")
    ] = True,
    json: Json = False,
) -> None:
    """Apply edits to checkpoints: each to the weights that it was solved on, byte for byte the same every time."""
    from chip.cli.console import Printer
    from chip.workflow.apply import ApplyRequest, carry_out_apply, prepare_apply

    printer = Printer(json)
    request = ApplyRequest(
        models=tuple(path for path in inputs if path.is_dir()),
        edits=tuple(path for path in inputs if not path.is_dir()),
        out=out,
        after=tuple(after or ()),
        transfer=transfer,
        in_place=in_place,
        link=link,
        force=force,
        verify=verify,
        receipt=receipt,
        edit_out=edit_out,
        sign=sign,
    )
    planned = prepare_apply(request)
    for one in planned:
        printer.applying(one)
    done = carry_out_apply(request, planned, printer.track, printer.applied)
    printer.result({"applied": [applied.as_json() for applied in done]})
