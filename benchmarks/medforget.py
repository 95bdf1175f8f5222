"""MedForget's contest on real data: every method at every level, beside models retrained without each forget set.

    python benchmarks/medforget.py --data DIR [--work DIR] [--only hannover] [--methods "oblique,chip"]

`DIR` holds `hannover` and `vqa_rad` as records; what is absent is left out. Small models learn the same part of them as
in `real.py`, once with and once without each forget set, under `--work`; then it is `chip medforget run`. What was done
is kept there and not done again. Writes `benchmarks/results/medforget/`: numbers alone. Some hours on one core.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from memorised import Learnt, memorise
from real import SOURCES, chosen_records

from chip.cli.console import Printer
from chip.cli.options import quiet_libraries
from chip.hierarchy import Hierarchy
from chip.medforget.contest import read_methods
from chip.medforget.layout import PAGE, PICTURE, SPLITS, VALUES
from chip.medforget.splits import Sizes, Splits, divide, write_splits
from chip.records import read_records
from chip.workflow.medforget.run import carry_out_run
from chip.workflow.medforget.run_prepared import RunRequest

RESULTS = Path(__file__).parent / "results" / "medforget"
METHODS = "counterpart,oblique,chip,chip --layers 0-3,npo,simnpo,duolearn --no-dp"


@dataclass(frozen=True)
class Part:
    """A data set. lonely: levels whose targets may keep one retained sibling, since their nodes seldom have more."""

    title: str
    lonely: tuple[str, ...] = ()


PARTS = {
    "hannover": Part("chest radiographs with laboratory values from Hannover", lonely=("section",)),
    "vqa_rad": Part("VQA-RAD, by organ, image and type of question"),
}


def main(
    data: Annotated[Path, typer.Option(help="Directory with hannover and vqa_rad as records.")],
    work: Annotated[Path, typer.Option(help="Where models and outcomes are kept.")] = Path("build/medforget"),
    only: Annotated[list[str] | None, typer.Option(help="hannover or vqa_rad; both by default.")] = None,
    methods: Annotated[str, typer.Option(help="As of `chip medforget run`.")] = METHODS,
    trials: Annotated[int, typer.Option(help="Edits that each method may try.")] = 4,
    seconds: Annotated[int, typer.Option(help="Seconds of the processor that a method may take.")] = 180,
) -> None:
    """Do what is not done yet, and write the results."""
    quiet_libraries()
    torch.set_num_threads(1)
    printer = Printer(False)
    for name, part in PARTS.items():
        if (only and name not in only) or not (data / name / "records.jsonl").is_file():
            continue
        place = work.resolve() / name
        records = chosen_records(place, (data / name).resolve(), SOURCES[name])
        splits = divided(place, records, part)
        learnt = trained(place, records, name, splits)
        request = RunRequest(
            model=str(place / "model"),
            data=records,
            out=place / "results",
            methods=read_methods(methods),
            splits=place / SPLITS,
            gold=place / "gold",
            trials=trials,
            seconds=seconds,
            nonmembers=place / "strangers",
        )
        carry_out_run(request, track=printer.track, notice=printer.notice)
        publish(place, name, part, learnt, seconds)


def divided(place: Path, records: Path, part: Part) -> Splits:
    """A tenth of each level's nodes, drawn by seed."""
    hierarchy = read_records(records)
    found = [_level(hierarchy, level, 1 if level in part.lonely else 2) for level in hierarchy.levels]
    siblings = min(one.siblings for one in found)
    splits = Splits({k: v for one in found for k, v in one.levels.items()}, siblings=siblings)
    write_splits(place / SPLITS, splits)
    return splits


def _level(hierarchy: Hierarchy, level: str, siblings: int) -> Splits:
    return divide(hierarchy, Sizes(siblings=siblings), levels=[level])


def trained(place: Path, records: Path, name: str, splits: Splits) -> dict[str, Learnt]:
    """The model, and for each level one that never saw its forget set."""
    lesson = SOURCES[name].lesson
    found = {"model": memorise(place / "model", records, lesson)}
    for level, (one,) in splits.levels.items():
        (place / "gold").mkdir(exist_ok=True)
        found[f"retrained, {level}"] = memorise(place / "gold" / level, records, lesson, without=one.forget)
    return found


def publish(place: Path, name: str, part: Part, learnt: dict[str, Learnt], seconds: int) -> None:
    """The results, with what is to be told of the models."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    lines = [
        f"Data: {part.title}; {SOURCES[name].part}.",
        "Models of some 1.3 million parameters that see 56 pixels a side, trained from random weights on every wording",
        "that the data have until they knew them by heart: other wordings are no news to them, only to the edit.",
        *(
            [f"At level {' and '.join(part.lonely)} every target keeps one retained sibling; elsewhere two."]
            if part.lonely
            else []
        ),
        f"A method may take {seconds} s of the processor: one thread of two shared x86-64 cores, no accelerator.",
        "",
        "| model | records | known | loss |",
        "| --- | --- | --- | --- |",
        *(f"| {row} | {one.records} | {one.known:.3f} | {one.loss:.3f} |" for row, one in learnt.items()),
    ]
    title, rest = (place / "results" / PAGE).read_text().split("\n\n", 1)
    (RESULTS / f"{name}.md").write_text("\n\n".join((title, "\n".join(lines), rest)))
    for file, end in ((VALUES, "json"), (PICTURE, "png")):
        shutil.copy(place / "results" / file, RESULTS / f"{name}.{end}")


if __name__ == "__main__":
    typer.run(main)
