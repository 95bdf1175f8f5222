"""Every method on small models that know real data by heart, at every level that the data have.

    python benchmarks/real.py --data DIR [--work DIR] [--only "hannover patient" …] [--method NAME …] [--trials 4]

`DIR` holds `hannover`, `vqa_rad` and `tofu` as records; what is absent is left out. Models are trained, and trained again
without each target, under `--work`; each method then runs as the command that a user would type. What was done is kept
there and not done again, unless its command is another one by now. Writes `benchmarks/results/real.md` and `.json`:
numbers alone, since records are nobody's to publish. About an hour and a half on one core.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from audited import Bounds, Case, Kept, collected, measure
from chip.hospital.learning import Course
from commands import METHODS
from memorised import Learnt, Lesson, memorise
from pages import Page, write_page

from chip.cli.options import quiet_libraries
from chip.hierarchy import Hierarchy, NodePath, is_under
from chip.records import read_records

ASKED = 200
"""Retained records asked of a group; the target is asked in full."""


@dataclass(frozen=True)
class Source:
    """A data set. levels: by level, the fewest records of a target. chosen: which of its nodes at the first or second
    depth are learnt, None for all. together: nodes that are forgotten at once instead of one."""

    lesson: Lesson
    levels: dict[str, int]
    depth: int = 1
    chosen: Callable[[list[NodePath]], list[NodePath]] | None = None
    together: Callable[[NodePath], bool] | None = None
    about: str = ""


def _every_third(nodes: list[NodePath]) -> list[NodePath]:
    return nodes[::3]


def _forgotten_author(node: NodePath) -> bool:
    return node[0] >= "author_180"


def _authors(nodes: list[NodePath]) -> list[NodePath]:
    """The 20 of forget10, and the first 40 of the others."""
    return [*nodes[:40], *filter(_forgotten_author, nodes)]


SOURCES = {
    "hannover": Source(
        Lesson(1000, Course(batch=16, learning_rate=8e-4, learnt=0.6, settling=6, most_epochs=50)),
        {"patient": 15, "study": 6, "section": 4},
    ),
    "tofu": Source(
        Lesson(4000, Course(batch=16, learning_rate=1e-3, learnt=3.0, settling=6, most_epochs=50)),
        {"author": 20},
        chosen=_authors,
        together=_forgotten_author,
        about="forget10's 20 authors and the first 40 of retain90",
    ),
    "vqa_rad": Source(
        Lesson(2000, Course(batch=16, learning_rate=8e-4, learnt=0.6, settling=6, most_epochs=50)),
        {"image": 10, "question_type": 4, "organ": 100},
        depth=2,
        chosen=_every_third,
        about="every third image in sorted order",
    ),
}


def main(
    data: Annotated[Path, typer.Option(help="Directory with hannover, vqa_rad and tofu as records.")],
    work: Annotated[Path, typer.Option(help="Where models and outcomes are kept.")] = Path("build/real"),
    only: Annotated[list[str] | None, typer.Option(help="Such as 'hannover patient'; all by default.")] = None,
    method: Annotated[list[str], typer.Option(help="Names as in the table; all by default.")] = list(METHODS),  # noqa: B006
    trials: Annotated[int, typer.Option(help="Edits that each method may try.")] = 4,
    seconds: Annotated[int, typer.Option(help="Seconds of the processor that a method may take.")] = 240,
    whole: Annotated[bool, typer.Option(help="Learn every record instead of the part that is chosen.")] = False,
) -> None:
    """Run what is not measured yet, and write the results."""
    quiet_libraries()
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    kept, bounds = Kept(work / "outcomes.json"), Bounds(trials, seconds)
    for name, source in SOURCES.items():
        if (data / name / "records.jsonl").is_file():
            place = work / (f"{name}-whole" if whole and source.chosen else name)
            for case in cases(name, replace(source, chosen=None) if whole else source, data / name, place):
                if not only or f"{name} {case.level}" in only:
                    measure(case, bounds, kept, place, {one: METHODS[one] for one in method})


def chosen_records(directory: Path, data: Path, source: Source) -> Path:
    """The data directory that is learnt: `data` itself, or a part of it with the same images."""
    if source.chosen is None:
        return data
    if not directory.exists():
        hierarchy = read_records(data)
        nodes = set(source.chosen(sorted(node for node in hierarchy.nodes if len(node) == source.depth)))
        lines = (data / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        directory.mkdir(parents=True)
        (directory / "dataset.json").write_bytes((data / "dataset.json").read_bytes())
        if (data / "images").is_dir():
            (directory / "images").symlink_to((data / "images").resolve())
        kept = [line for line in lines if tuple(json.loads(line)["path"][: source.depth]) in nodes]
        (directory / "records.jsonl").write_text("".join(kept), encoding="utf-8")
    return directory


def cases(name: str, source: Source, data: Path, place: Path) -> Iterator[Case]:
    """By level, the case of its target; models are trained on the way."""
    records = chosen_records(place / "records", data, source)
    hierarchy = read_records(records)
    memorise(place / "model", records, source.lesson)
    for level, fewest in source.levels.items():
        nodes = targets(hierarchy, level, fewest, source.together)
        gold = place / f"without-{level}"
        learnt = memorise(gold, records, source.lesson, without=nodes)
        forget = tuple("/".join(node) for node in nodes)
        yield Case(name, level, place / "model", records, forget, gold, learnt.seconds, records=ASKED)


def targets(
    hierarchy: Hierarchy, level: str, fewest: int, together: Callable[[NodePath], bool] | None = None
) -> list[NodePath]:
    """The first node of a level, in sorted order, that holds at least so many records and stands beside another node of
    its level; or all that are to be forgotten together."""
    depth = hierarchy.levels.index(level) + 1
    nodes = sorted(node for node in hierarchy.nodes if len(node) == depth)
    if together is not None:
        return [node for node in nodes if together(node)]
    children = Counter(node[:-1] for node in nodes)
    for node in nodes:
        if children[node[:-1]] > 1 and sum(is_under(path, node) for path in hierarchy.paths) >= fewest:
            return [node]
    raise SystemExit(f"no {level} holds {fewest} records and has a neighbour")
