"""`chip medforget …`: the hierarchy-aware benchmark, one module a verb."""

import typer

from chip.cli.medforget.build import build
from chip.cli.medforget.check import check
from chip.cli.medforget.finetune import finetune
from chip.cli.medforget.run import run
from chip.cli.medforget.split import split
from chip.cli.medforget.unpack import unpack

app = typer.Typer(
    name="medforget", no_args_is_help=True, help="The hierarchy-aware unlearning benchmark, built from your own export."
)
for verb in (build, unpack, check, split, finetune, run):
    app.command()(verb)
