"""Asks two models the same questions and shows their answers side by side: for records that may be shown, as these.

python examples/ask.py demo/model demo/model-forgotten --data demo/records --node patient_123
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chip.cli.options import quiet_libraries
from chip.errors import ChipError
from chip.hierarchy import is_under
from chip.records import read_records


def ask(before: str, after: str, data: Annotated[Path, typer.Option()], node: Annotated[str, typer.Option()]) -> None:
    """Print question, answer before and answer after for every record of a node."""
    quiet_libraries()
    from chip.measure import measure_answers
    from chip.models.checkpoint import Checkpoint
    from chip.models.folders import resolve_model
    from chip.models.loading import load_model

    hierarchy = read_records(data)
    path = hierarchy.resolve(node)
    records = [record for record in hierarchy.records if is_under(record.path, path)]
    table = Table("question", "before", "after")
    both = [measure_answers(load_model(Checkpoint(resolve_model(model))), records) for model in (before, after)]
    for record, first, second in zip(records, *both, strict=True):
        table.add_row(*(Text(text or "(no answer)") for text in (record.question, first.text, second.text)))
    Console().print(table)


if __name__ == "__main__":
    try:
        typer.run(ask)
    except ChipError as problem:
        raise SystemExit(f"ask: {problem}") from problem
