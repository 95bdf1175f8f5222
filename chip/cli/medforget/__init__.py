"""`chip medforget …`: the hierarchy-aware benchmark, one module a verb."""

import typer

app = typer.Typer(
    name="medforget", no_args_is_help=True, help="The hierarchy-aware unlearning benchmark, built from your own export."
)
