"""`chip demo`: build the example hospital and leave it ready to be edited."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Json, Seed, quiet_libraries


def demo(
    directory: Annotated[Path, typer.Argument(help="Where to put model/, records/ and chip.toml.", show_default=False)],
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Build a synthetic hospital and train a small vision-language model on it, in about two minutes."""
    quiet_libraries()
    from chip.cli.console import Printer
    from chip.demo import PATIENT, build_demo

    printer = Printer(json)
    build_demo(directory, seed)
    printer.line(f"ready in {directory}: model/, records/, chip.toml")
    printer.line(f"next: cd {directory} && chip edit model --forget {PATIENT}")
    printer.result({"directory": str(directory), "next": f"chip edit model --forget {PATIENT}"})
