"""The page and the plot of how chip grows: figures as they were measured, and the slopes between them."""

import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from matplotlib.figure import Figure

from chip.version import VERSION

RESULTS = Path(__file__).parent / "results"
KINDS = ("text", "pictures")
COLLECTING = ("read", "prepare", "collect", "collect again", "go on", "add a hundredth")

Steps = Mapping[str, Mapping[str, float]]


def write(steps: Steps, beside: int) -> None:
    """Write `results/load.md`, `.json` and `.png` from what was measured so far."""
    versions = {"chip": VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
    lines = [
        "# Load",
        "",
        f"Made by `python benchmarks/load.py` with {', '.join(f'{name} {one}' for name, one in versions.items())} on",
        f"{platform.machine()}, 1 thread, no accelerator, other work beside it: seconds are of the processor, and in",
        "brackets by the clock, which says how busy the machine was. Memory is the peak of the process, libraries",
        "and model included. Ten records a node. *Slope* is that between the last two runs of the",
        "logarithms, less what the smallest run takes: 1 is growth in proportion. What was not run yet is left open.",
        "",
        "![Seconds, memory and file sizes against records and requests](load.png)",
    ]
    for kind in KINDS:
        lines += ["", f"## {'Records of text' if kind == 'text' else 'Records with a picture a patient'}", ""]
        lines += _collecting(steps, kind)
    lines += ["", "## Requests", "", *_batches(steps, beside)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "load.md").write_text("\n".join(lines) + "\n")
    content = {"machine": platform.machine(), "versions": versions, "steps": steps}
    (RESULTS / "load.json").write_text(json.dumps(content, indent=1) + "\n")
    _plot(steps, beside)


def _numbers(steps: Steps, pattern: str) -> dict[int, Mapping[str, float]]:
    """The steps whose names match, by the number in them, in order."""
    matches = ((re.fullmatch(pattern, name), one) for name, one in steps.items())
    return dict(sorted((int(match[1]), one) for match, one in matches if match))


def _collecting(steps: Steps, kind: str) -> list[str]:
    found = {step: _numbers(steps, rf"{step}, {kind}, (\d+) records") for step in COLLECTING}
    counts = list(found["collect"])
    lines = [f"| | {' | '.join(f'{count:,}' for count in counts)} | slope |", "| --- " * (len(counts) + 2) + "|"]
    for step, by_count in found.items():
        cells = [_seconds(by_count[count]) if count in by_count else "–" for count in counts]
        lines.append(
            f"| {step}, s | {' | '.join(cells)} | {_slope({n: s['processor'] for n, s in by_count.items()})} |"
        )
    memory = {count: one["mebibytes"] for count, one in found["collect"].items()}
    sizes = {count: one["file"] for count, one in found["collect"].items()}
    lines.append(f"| collect, MiB | {' | '.join(f'{one:.0f}' for one in memory.values())} | {_slope(memory)} |")
    lines.append(f"| statistics file, MiB | {' | '.join(f'{one:.1f}' for one in sizes.values())} | {_slope(sizes)} |")
    return lines


def _batches(steps: Steps, beside: int) -> list[str]:
    lines = [
        "| batch | seconds | seconds a request more | run again | MiB | checkpoints, MiB | receipts and edits, MiB "
        "| ledger and summary, MiB |",
        "| --- " * 8 + "|",
    ]
    first: Mapping[str, Mapping[str, float]] = {}
    for name, one in steps.items():
        if match := re.fullmatch(r"batch, (\d+) requests, (\d+) records(.*)", name):
            before = first.get(match[3]) if int(match[2]) == beside else None
            each = "–"
            if before is not None:
                more = (one["processor"] - before["processor"]) / (int(match[1]) - before["requests"])
                each = f"{more:.2f}"
            first = {**first, match[3]: {**one, "requests": int(match[1])}}
            cells = [f"{one[key]:.2f}" for key in ("checkpoints", "receipts and edits", "ledger and summary")]
            lines.append(
                f"| {match[1]} requests, {int(match[2]):,} records{match[3]} | {_seconds(one)} | {each} | "
                f"{one['again']:.1f} | {one['mebibytes']:.0f} | {' | '.join(cells)} |"
            )
    return lines


def _seconds(one: Mapping[str, float]) -> str:
    return f"{one['processor']:.1f} ({one['clock']:.0f})"


def _slope(values: Mapping[int, float]) -> str:
    """The slope between the last two, on logarithmic axes, beyond what the first takes."""
    if len(values) < 3:
        return "–"
    (start, least), *_, (one, low), (other, high) = values.items()
    if low <= least or high <= least:
        return "0"
    return f"{math.log((high - least) / (low - least)) / math.log((other - start) / (one - start)):.2f}"


def _plot(steps: Steps, beside: int) -> None:
    figure = Figure(figsize=(11, 7), layout="constrained")
    time, memory, size, requests = figure.subplots(2, 2).flat
    for kind, mark in zip(KINDS, ("o", "s"), strict=True):
        for step, colour in zip(COLLECTING, ("C0", "C1", "C2", "C3", "C4", "C5"), strict=True):
            found = _numbers(steps, rf"{step}, {kind}, (\d+) records")
            _draw(time, found, "processor", f"{step}, {kind}", mark, colour)
            if step in ("prepare", "collect"):
                _draw(memory, found, "mebibytes", f"{step}, {kind}", mark, colour)
        _draw(size, _numbers(steps, rf"collect, {kind}, (\d+) records"), "file", kind, mark, "C2")
    for label, how, mark in (("a checkpoint each", "", "o"), ("one checkpoint", ", one checkpoint", "s")):
        found = _numbers(steps, rf"batch, (\d+) requests, {beside} records{how}")
        for key, colour in (("processor", "C0"), ("again", "C1"), ("mebibytes", "C2")):
            _draw(requests, found, key, f"{key}, {label}", mark, colour)
    for axes, title in ((time, "seconds"), (memory, "MiB at most"), (size, "statistics file, MiB")):
        axes.set(title=title, xlabel="records")
    requests.set(title=f"requests on {beside:,} records", xlabel="requests")
    for axes in (time, memory, size, requests):
        if axes.lines:
            axes.set(xscale="log", yscale="log")
        axes.grid(visible=True, which="major", alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=6)
    figure.savefig(RESULTS / "load.png", dpi=110)


def _draw(axes: object, found: Mapping[int, Mapping[str, float]], key: str, label: str, mark: str, colour: str) -> None:
    if not found:
        return
    values: Sequence[float] = [one[key] for one in found.values()]
    axes.plot(list(found), values, marker=mark, color=colour, label=label)  # type: ignore[attr-defined]
