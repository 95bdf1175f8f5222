"""The verbs put together, with the options that stand before them and the defaults from `chip.toml`."""

from pathlib import Path
from typing import Annotated

import typer

from chip.allowed import ALLOWED_FOLDERS, ALLOWED_PIXELS, MOST_PIXELS
from chip.cli.apply import apply
from chip.cli.audit import audit
from chip.cli.batch import batch
from chip.cli.collect import collect
from chip.cli.concepts import concepts
from chip.cli.config import read_defaults
from chip.cli.demo import demo
from chip.cli.edit import edit
from chip.cli.environment import allowing
from chip.cli.export import export
from chip.cli.inspect import inspect
from chip.cli.medforget import app as medforget
from chip.cli.merge import merge
from chip.cli.recover import recover
from chip.cli.revert import revert
from chip.cli.verify import verify
from chip.version import VERSION

app = typer.Typer(
    name="chip",
    help="Takes named things out of a trained model without training it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (edit, batch, apply, verify, revert, recover, export, merge, collect, audit, concepts, inspect, demo):
    app.command()(verb)
app.add_typer(medforget)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chip {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Defaults for every flag; `chip.toml` of the working directory if it is there.", envvar="CHIP_CONFIG"
        ),
    ] = None,
    most_pixels: Annotated[
        int | None,
        typer.Option(
            help=f"Open images of up to so many pixels; {MOST_PIXELS:,} by default.",
            envvar=ALLOWED_PIXELS,
            show_default=False,
        ),
    ] = None,
    images_from: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder beside the data directory that its records may name images in; may be repeated.",
            envvar=ALLOWED_FOLDERS,
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Takes named things out of a trained model without training it.

    Flags win over the environment (CHIP_…), which wins over chip.toml.
    """
    context.with_resource(allowing(most_pixels, images_from or ()))
    context.default_map = read_defaults(config, context)
