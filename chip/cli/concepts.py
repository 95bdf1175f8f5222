"""`chip concepts`: the levels and roles of the words of a target's answers, for a clinician to check."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Forget, Json, Lexicon, quiet_libraries


def concepts(
    data: Annotated[
        Path, typer.Argument(help="Data directory with records.jsonl.", envvar="CHIP_DATA", show_default=False)
    ],
    forget: Forget,
    lexicon: Lexicon = None,
    model: Annotated[
        str | None,
        typer.Option(help="Show this model's tokens instead of words; loads no weights.", show_default=False),
    ] = None,
    records: Annotated[int, typer.Option(min=0, help="Records of the target that are shown; all are counted.")] = 20,
    choices: Annotated[
        bool,
        typer.Option(
            "--choices/--no-choices",
            help="Also target shared words that retained answers do not choose in the same place.",
            envvar="CHIP_CHOICES",
        ),
    ] = True,
    json: Json = False,
) -> None:
    """Show which words of the target's answers are at which concept level, and which would be unlearnt.

    Prints the target's questions and answers: keep what it prints as you keep the records.
    """
    if model is not None:
        quiet_libraries()
    from chip.cli.concept_view import view
    from chip.cli.console import Printer
    from chip.workflow.concepts import ConceptsRequest, show_concepts

    printer = Printer(json)
    shown = show_concepts(ConceptsRequest(data, tuple(forget), lexicon, model, records, choices))
    if json:
        printer.result(shown.as_json())
        return
    for part in view(shown, marked=not printer.console.is_terminal or printer.console.no_color):
        printer.console.print(part)
