"""Many requests: what each costs once the first is done, and what cumulative forgetting leaves of everything else.

    python benchmarks/batch.py [--work DIR] [--requests 100] [--stage 10 --stage 50 --stage 100]

First the example hospital, each request in a checkpoint of its own: patients, studies and sections, drawn by seed,
written, proved and asked as `chip batch` does it. Then a hospital of four times as many patients, sections and studies
forgotten one after the other in one checkpoint, which is asked at every stage. Hospitals are built once under the work
directory, and both batches go on where they were interrupted. Results stand in `benchmarks/results/batch.md`, rewritten
as they come. About two hours on one core: an hour for each half.
"""

import json
import math
import platform
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import transformers
import typer
from chip.hospital import HospitalPlan, build_hospital

from chip.cli.options import quiet_libraries
from chip.hierarchy import Hierarchy, NodePath, is_under
from chip.measure import teacher_forced
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records
from chip.settings import TuningSettings
from chip.version import VERSION
from chip.workflow import BatchRequest, carry_out_batch, prepare_batch

EXAMPLE, LARGER = HospitalPlan(), HospitalPlan(patients=16)
RESULTS = Path(__file__).parent / "results"
GROUPS = ("target", "earlier targets", "siblings", "rest")


@dataclass(frozen=True)
class Stage:
    """A cumulative checkpoint after so many requests: by group, records, exact match and perplexity of the answers."""

    requests: int
    seconds: float
    scores: dict[str, tuple[int, float, float]]


def main(
    work: Annotated[Path, typer.Option(help="Where hospitals and checkpoints are kept.")] = Path("batch-work"),
    requests: Annotated[int, typer.Option(help="Requests in checkpoints of their own; 0 for none.")] = 100,
    stage: Annotated[list[int] | None, typer.Option(help="Cumulative requests after which is asked.")] = None,
) -> None:
    """Run both halves and write the results."""
    quiet_libraries()
    torch.set_num_threads(1)
    lines = _heading()
    if requests:
        lines += independent(work / "example", requests)
        _write(lines)
    stages: list[Stage] = []
    for one in sorted(stage or [10, 50, 100]):
        stages.append(cumulative(work / "larger", one))
        _write([*lines, *_stages(stages)])


def independent(directory: Path, count: int) -> list[str]:
    """A batch of single requests on the example hospital; the time of each, as lines of the page."""
    build_hospital(directory, EXAMPLE)
    hierarchy = read_records(directory / "records")
    nodes = drawn(hierarchy, (2, 3, 4), count, apart=False)
    request = _request(directory, nodes, directory / f"batch-{count}", cumulative=False, verify=True)
    result = carry_out_batch(prepare_batch(request))
    seconds = [one.seconds for one in result.outcomes if one.receipt]
    lines = [
        "",
        f"## {len(seconds)} requests, a checkpoint each",
        "",
        f"The example hospital ({len(hierarchy.records)} records); solved with the default settings, written, proved,",
        "and asked before and after. Statistics were collected once, before the first.",
        "",
        "| level | requests | goals met | target | siblings | rest | seconds each |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for depth in (2, 3, 4):
        found = [one for one in result.outcomes if one.receipt and len(nodes[one.line - 1]) == depth]
        if not found:
            continue
        after = {
            group: [match[1] for one in found if (match := one.match(group)) is not None]
            for group in ("target", "siblings", "rest")
        }
        cells = " | ".join(f"{fmean(values):.3f}" if values else "–" for values in after.values())
        times = fmean(one.seconds for one in found)
        met = sum(one.goals_met is True for one in found)
        lines.append(f"| {hierarchy.levels[depth - 1]} | {len(found)} | {met} | {cells} | {times:.1f} |")
    others = f", the others {fmean(seconds[1:]):.1f} s each" if len(seconds) > 1 else ""
    return [*lines, "", f"The first took {seconds[0]:.1f} s{others}; {result.failed} failed."]


def cumulative(directory: Path, count: int) -> Stage:
    """Go on with one checkpoint until it has forgotten so many nodes, and ask it."""
    build_hospital(directory, LARGER)
    hierarchy = read_records(directory / "records")
    nodes = drawn(hierarchy, (4, 4, 4, 3), count, apart=True)
    out = directory / "cumulative"
    request = _request(directory, nodes, out, cumulative=True, verify=False)
    result = carry_out_batch(prepare_batch(request))
    seconds = [one.seconds for one in result.outcomes if one.receipt]
    loaded = load_model(Checkpoint(out / "model"), "cpu")
    return Stage(count, fmean(seconds), asked(loaded, hierarchy, nodes))


def drawn(hierarchy: Hierarchy, depths: Sequence[int], count: int, *, apart: bool) -> list[NodePath]:
    """Nodes drawn by seed, in turn of these depths, none of them twice and, if `apart`, none inside another.

    More are drawn in the same order: a longer list begins as a shorter one. Raises ValueError where there are too few.
    """
    draw = random.Random(0)
    pools = {}
    for depth in sorted(set(depths)):
        pool = sorted(node for node in hierarchy.nodes if len(node) == depth)
        draw.shuffle(pool)
        pools[depth] = iter(pool)
    found: list[NodePath] = []
    while len(found) < count:
        before = len(found)
        for depth in depths[: count - before]:
            free = (one for one in pools[depth] if not apart or not any(_overlap(one, node) for node in found))
            found += islice(free, 1)
        if len(found) == before:
            raise ValueError(f"the hospital has only {before} such nodes")
    return found


def _overlap(one: NodePath, other: NodePath) -> bool:
    return is_under(one, other) or is_under(other, one)


def asked(loaded: LoadedModel, hierarchy: Hierarchy, nodes: Sequence[NodePath]) -> dict[str, tuple[int, float, float]]:
    """By group: records, exact match and perplexity, by teacher forcing; siblings are those of any target."""
    places: dict[str, list[int]] = {group: [] for group in GROUPS}
    for position, path in enumerate(hierarchy.paths):
        if is_under(path, nodes[-1]):
            group = "target"
        elif any(is_under(path, node) for node in nodes):
            group = "earlier targets"
        elif any(is_under(path, node[:-1]) and len(path) >= len(node) for node in nodes):
            group = "siblings"
        else:
            group = "rest"
        places[group].append(position)
    scores = {}
    for group, positions in places.items():
        if positions:
            encoded = [loaded.prompts.encode(hierarchy.records[i]) for i in positions]
            answers = teacher_forced(loaded, encoded)
            match, loss = fmean(one.likeliest for one in answers), fmean(one.loss for one in answers)
            scores[group] = (len(positions), match, math.exp(loss))
    return scores


def _request(directory: Path, nodes: Sequence[NodePath], out: Path, *, cumulative: bool, verify: bool) -> BatchRequest:
    requests = directory / f"{out.name}.jsonl"
    requests.write_text("".join(json.dumps({"forget": "/".join(node)}) + "\n" for node in nodes))
    return BatchRequest(
        str(directory / "model"), requests, directory / "records", out, cumulative, device="cpu", verify=verify,
        tuning=TuningSettings(tune=False),
    )  # fmt: skip


def _heading() -> list[str]:
    versions = f"chip {VERSION}, torch {torch.__version__}, transformers {transformers.__version__}"
    return [
        "# Many requests",
        "",
        f"Made by `python benchmarks/batch.py` with {versions}",
        f"on {platform.machine()}, 1 thread, no accelerator, other work beside it. No settings were searched.",
    ]


def _stages(stages: Sequence[Stage]) -> list[str]:
    lines = [
        "",
        "## One checkpoint that forgets them all",
        "",
        "Four institutions of 16 patients: three sections to one study, one after the other. *Target* is the last of",
        "them, *siblings* are those of any. Exact match, and in brackets the perplexity of the true answers, both by",
        "teacher forcing.",
        "",
        f"| requests | {' | '.join(GROUPS)} | seconds a request |",
        "| --- " * (len(GROUPS) + 2) + "|",
    ]
    for one in stages:
        cells = (
            f"{found[1]:.3f} [{found[2]:.3g}] of {found[0]}" if (found := one.scores.get(group)) else "–"
            for group in GROUPS
        )
        lines.append(f"| {one.requests} | {' | '.join(cells)} | {one.seconds:.1f} |")
    return lines


def _write(lines: Sequence[str]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "batch.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
