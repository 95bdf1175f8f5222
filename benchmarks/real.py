"""Every method on small models that know real data by heart, at the levels that the data have.

    python benchmarks/real.py --data DIR [--work DIR] [--only "hannover patient" …] [--method NAME …] [--whole]

`DIR` holds `hannover`, `vqa_rad` and `tofu` as records; what is absent is left out. Models are trained, and trained
again without each target, under `--work`; each method then runs as the command that a user would type. What was
done is kept there and not done again, unless its command is another one by now. Writes `benchmarks/results/real.md`
and `.json` after every method: numbers alone, since the records are not ours to publish. Some hours on one core;
`--whole` takes days.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from audited import QUICK, Bounds, Case, Kept, measure
from chip.hospital.folders import new_directory
from chip.hospital.learning import Course
from commands import METHODS
from memorised import LAYERS, Lesson, memorise
from pages import write_page

from chip.cli.options import quiet_libraries
from chip.hierarchy import Hierarchy, NodePath
from chip.records import read_records

Nodes = list[NodePath]


@dataclass(frozen=True)
class Source:
    """A data set. levels: by level, the fewest records of a target. chosen: which nodes at `depth` are learnt, in words
    `part`; all of them where None. together: nodes that are forgotten at once, instead of one."""

    lesson: Lesson
    levels: dict[str, int]
    part: str = "all records"
    depth: int = 1
    chosen: Callable[[Nodes], Nodes] | None = None
    together: Callable[[NodePath], bool] | None = None

    def whole(self) -> "Source":
        return replace(self, part="all records", chosen=None)


def _forget10(node: NodePath) -> bool:
    return node[0] >= "author_180"


COURSE = Course(batch=16, learning_rate=8e-4, learnt=0.6, settling=6, most_epochs=50)
SOURCES = {
    "hannover": Source(
        Lesson(1000, COURSE),
        {"patient": 15, "study": 6, "section": 4},
        "every fourth patient in sorted order",
        chosen=lambda nodes: nodes[::4],
    ),
    "tofu": Source(
        Lesson(4000, replace(COURSE, learnt=3.0)),
        {"author": 40},
        "the first 2 authors of forget10 and the first 18 of retain90",
        chosen=lambda nodes: [*nodes[:18], *list(filter(_forget10, nodes))[:2]],
        together=_forget10,
    ),
    "vqa_rad": Source(
        Lesson(2000, COURSE),
        {"image": 10, "question_type": 4},
        "every eighth image in sorted order",
        depth=2,
        chosen=lambda nodes: nodes[::8],
    ),
}


def main(
    data: Annotated[Path, typer.Option(help="Directory with hannover, vqa_rad and tofu as records.")],
    work: Annotated[Path, typer.Option(help="Where models and outcomes are kept.")] = Path("build/real"),
    only: Annotated[list[str] | None, typer.Option(help="Such as 'hannover patient'; all by default.")] = None,
    method: Annotated[list[str], typer.Option(help="Names as in the table; all by default.")] = list(METHODS),  # noqa: B006
    trials: Annotated[int, typer.Option(help="Edits that each method may try.")] = 8,
    seconds: Annotated[int, typer.Option(help="Seconds of the processor that a method may take.")] = 240,
    attack: Annotated[list[str], typer.Option(help="Attacks of the audit; those of a quick one by default.")] = QUICK,
    whole: Annotated[bool, typer.Option(help="Learn all records of every data set.")] = False,
) -> None:
    """Do what is not done yet, and write the results."""
    quiet_libraries()
    torch.set_num_threads(1)
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    kept, bounds = Kept(work / "outcomes.json"), Bounds(trials, seconds, tuple(attack))
    data = data.resolve()
    there = {name: one for name, one in SOURCES.items() if (data / name / "records.jsonl").is_file()}
    sources = {name: one.whole() if whole else one for name, one in there.items()}
    every = {
        name: cases(name, one, data / name, work / f"{name}-whole" if whole else work / name)
        for name, one in sources.items()
    }
    methods = {name: METHODS[name] for name in method}
    for name, found in every.items():
        for case in found:
            if not only or f"{name} {case.level}" in only:
                train(case, sources[name].lesson)
                for _ in measure(case, bounds, kept, methods):
                    page(sources, [one for each in every.values() for one in each], kept, bounds)


def cases(name: str, source: Source, data: Path, place: Path) -> list[Case]:
    """A case for every level; nothing is trained yet."""
    records = chosen_records(place, data, source)
    hierarchy = read_records(records)
    found = []
    for level, fewest in source.levels.items():
        nodes = targets(hierarchy, level, fewest, source.together)
        split = hierarchy.split(nodes)
        about = f"{len(split.target)} of {len(hierarchy.records)} records"
        about += f", {len(nodes)} nodes at once" if len(nodes) > 1 else ""
        forget, gold = tuple("/".join(node) for node in nodes), place / f"without-{level}"
        others = place / "strangers"
        strangers = others if others.exists() else None
        found.append(Case(name, level, about, place / "model", records, forget, gold, LAYERS, strangers))
    return found


def train(case: Case, lesson: Lesson) -> None:
    """The model, and the model without the target, where they are not there yet."""
    memorise(case.model, case.data, lesson)
    without = [tuple(node.split("/")) for node in case.forget]
    memorise(case.gold, case.data, lesson, without=without)


def chosen_records(place: Path, data: Path, source: Source) -> Path:
    """The data directory that is learnt: `data` itself, or a part of it beside `strangers`, the others."""
    if source.chosen is None:
        return data
    hierarchy = read_records(data)
    nodes = set(source.chosen(sorted(node for node in hierarchy.nodes if len(node) == source.depth)))
    lines = (data / "records.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [tuple(json.loads(line)["path"][: source.depth]) in nodes for line in lines]
    for name, wanted in (("records", True), ("strangers", False)):
        if not (place / name).exists():
            with new_directory(place / name) as folder:
                _copy(folder, data, [line for line, one in zip(lines, chosen, strict=True) if one is wanted])
    return place / "records"


def _copy(folder: Path, data: Path, lines: list[str]) -> None:
    """Some lines of a data directory as one of their own, with the images that they show."""
    (folder / "dataset.json").write_bytes((data / "dataset.json").read_bytes())
    (folder / "records.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for image in {json.loads(line).get("image") for line in lines} - {None}:
        (folder / image).parent.mkdir(exist_ok=True)
        (folder / image).write_bytes((data / image).read_bytes())


def targets(hierarchy: Hierarchy, level: str, fewest: int, together: Callable[[NodePath], bool] | None = None) -> Nodes:
    """The first node of a level, in sorted order, that holds at least so many records and stands beside another node of
    its level; or all that are to be forgotten together."""
    depth = hierarchy.levels.index(level) + 1
    nodes = sorted(node for node in hierarchy.nodes if len(node) == depth)
    if together is not None:
        return [node for node in nodes if together(node)]
    children = Counter(node[:-1] for node in nodes)
    records = Counter(path[:depth] for path in hierarchy.paths)
    for node in nodes:
        if children[node[:-1]] > 1 and records[node] >= fewest:
            return [node]
    raise SystemExit(f"no {level} holds {fewest} records and has a neighbour")


def page(sources: dict[str, Source], every: Iterable[Case], kept: Kept, bounds: Bounds) -> None:
    """Write what is known so far."""
    every = list(every)
    trained: dict[str, dict[str, Any]] = {}
    for case in every:
        for model in (case.model, case.gold):
            note = model.with_name(f"{model.name}.json")
            if note.exists():
                trained[f"{case.data_set}, {model.name}"] = json.loads(note.read_text())
    lines = [
        "Small models trained until they know real data by heart: a LLaVA that sees 56 pixels a side, or a Llama,",
        "of 4 layers and a width of 128, from random weights (seed 0). The target is the first node of its level,",
        "in sorted order, that holds enough records and has a neighbour (`SOURCES` in the script). Models are",
        "trained on every wording of a question that the data have; the edit sees the first alone. *Known* is the",
        "share of records answered in full, without the contradictory ones, whose question about the same image",
        f"has two answers in the data; training ends after {COURSE.most_epochs} epochs, known or not. Of a group",
        "at most 200 records are asked.",
        "",
        "| model | records | contradictory | parameters | epochs | known | loss | seconds (wall) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in trained.items():
        cells = (one["records"], one["records"] - one["consistent"], f"{one['parameters']:,}", one["epochs"])
        measured = f"{one['known']:.3f} | {one['loss']:.3f} | {one['seconds']:.0f}"
        lines.append(f"| {name} | {' | '.join(map(str, cells))} | {measured} |")
    lines += ["", "What is learnt: " + "; ".join(f"{name}, {one.part}" for name, one in sources.items()) + "."]
    lessons = {name: asdict(one.lesson) for name, one in sources.items()}
    write_page("real", "Every method on real data", lines, every, kept.found, bounds, {**trained, "lessons": lessons})


if __name__ == "__main__":
    typer.run(main)
