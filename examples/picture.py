"""Draws what two models answer about a node and about a sibling of it, beside the images: the picture in the README.

python examples/picture.py demo/model demo/model-forgotten --data demo/records --out docs/before-after.png
"""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer
from PIL import Image

from chip.cli.options import quiet_libraries
from chip.hierarchy import Record
from chip.records import read_records

_KEPT, _GONE, _FAINT = "#1b7837", "#b2182b", "#777777"


def draw(
    before: str,
    after: str,
    data: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
    node: Annotated[list[str], typer.Option()] = ["study_123_1", "study_367_1"],  # noqa: B006
) -> None:
    """Write a picture with a row for each node: its image, its questions, the answers before and after."""
    quiet_libraries()
    from chip.measure import measure_answers
    from chip.models.checkpoint import Checkpoint
    from chip.models.loading import load_model

    hierarchy = read_records(data)
    rows: list[list[Record]] = []
    for name in node:
        path = hierarchy.resolve(name)
        rows.append([record for record in hierarchy.records if record.path[: len(path)] == path and record.images])
    models = [load_model(Checkpoint(model)) for model in (before, after)]
    figure, axes = plt.subplots(len(rows), 2, figsize=(13, 2.5 * len(rows)), width_ratios=[1, 5.4])
    for (image_axis, text_axis), name, records in zip(axes, node, rows, strict=True):
        image_axis.imshow(Image.open(records[0].images[0]))
        image_axis.set_title(name.replace("study_", "patient_", 1).rpartition("_")[0], fontsize=11)
        image_axis.axis("off")
        text_axis.axis("off")
        answers = zip(records, *(measure_answers(model, records) for model in models), strict=True)
        for place, heading in (
            (0.0, "question"),
            (0.17, "before"),
            (0.59, "after (green: the true answer, red: another)"),
        ):
            text_axis.text(place, 1.0, heading, fontsize=9, color=_FAINT)
        for line, (record, first, second) in enumerate(answers):
            height = 0.82 - 0.19 * line
            subject = (
                record.question.removeprefix("What is the ").removeprefix("What are the ").removeprefix("Who is the ")
            )
            text_axis.text(0.0, height, subject.removesuffix(" of this study?"), fontsize=9)
            for place, answer in ((0.17, first), (0.59, second)):
                colour = _KEPT if answer.exact else _GONE
                text_axis.text(place, height, _shortened(answer.text or "(no answer)"), fontsize=9, color=colour)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def _shortened(text: str, limit: int = 66) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


if __name__ == "__main__":
    typer.run(draw)
