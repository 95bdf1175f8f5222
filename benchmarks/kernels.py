"""Every kernel beside its torch twin, `torch.linalg.svd`, and what the same device copies and multiplies, in one run.

    python benchmarks/kernels.py [--device cuda|cpu] [--small/--full] [--rounds 5]

Runs anywhere. On a GPU each Triton kernel is shown to agree with its twin, then both are timed in turn. Elsewhere the
twins are, at a reduced size, and what needs a GPU stays unmeasured, with the aim beside it: what the interpreter takes
says nothing about speed. *Share* is what the faster of the two moves, or computes, a second over what a large copy, or
a large float32 matrix product, does in the same run; a kernel is charged for each byte it must read or write once.
Writes `benchmarks/results/kernels.json` and `.md`, one section a kind of device.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from chip.kernels import batched_subspace, pooled_node_sums, pooled_sums, project_rows_, second_moment
from torch import Tensor

from chip.version import VERSION

RESULTS = Path(__file__).parent / "results"
VARIANCE = 0.95
SINGLY = 100
"""So many matrices are given to torch.linalg.svd; what all would take is reckoned from them."""

SIZES = {
    "full": {"rows": 8, "tokens": 4096, "outputs": 18_944, "inputs": 3584, "matrices": 20_000, "weights": 20},
    "small": {"rows": 2, "tokens": 1024, "outputs": 3584, "inputs": 896, "matrices": 200, "weights": 2},
}


@dataclass(frozen=True)
class Case:
    """One kernel on one input: `run` calls it once. Of bytes moved and floating-point operations, what limits it."""

    name: str
    shape: str
    run: Callable[[], object]
    result: Callable[[], Tensor]
    aim: str
    moved: int = 0
    operations: int = 0
    others: Mapping[str, tuple[Callable[[], object], float]] | None = None
    """What else is timed beside it, and how many times as long the whole case would take."""


def cases(device: torch.device, sizes: Mapping[str, int]) -> Iterator[Case]:
    """All of them, made one after the other, since each may fill a device."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, dtype=dtype, device=device, generator=generator)

    yield from _sums(drawn(sizes["rows"], sizes["tokens"], sizes["outputs"]))
    yield from _moments(drawn(sizes["rows"] * sizes["tokens"], sizes["inputs"]))
    yield from _subspaces(
        torch.nn.functional.normalize(drawn(sizes["matrices"], 16, 1894, dtype=torch.float32), dim=-1)
    )
    weights = [drawn(sizes["outputs"], sizes["inputs"]) for _ in range(sizes["weights"])]
    basis = torch.linalg.qr(drawn(sizes["outputs"] // 10, 12, dtype=torch.float32)).Q.T.contiguous()
    yield from _projections(weights, basis)


def _sums(activations: Tensor) -> Iterator[Case]:
    batch, tokens, outputs = activations.shape
    token = torch.arange(tokens, device=activations.device)
    image = (token < tokens // 2).expand(batch, tokens)
    real = token < tokens - 16 * torch.arange(batch, device=activations.device)[:, None]
    weights = torch.stack([image & real, ~image & real], 1)
    shares = torch.full((batch, 2), 1e-3, device=activations.device)
    touched = torch.arange(1, device=activations.device)
    belongs = torch.ones(1, batch, dtype=torch.bool, device=activations.device)
    shape = f"{tuple(activations.shape)} {_short(activations)}, 2 sums"
    moved, aim = activations.nbytes, "≥ 80 % of copy bandwidth"

    def once() -> Tensor:
        return pooled_sums(activations, weights, real)

    def fused() -> Tensor:
        total = torch.zeros(1, outputs, device=activations.device)
        pooled_node_sums(activations, weights, real, shares, touched, belongs, total, total.clone())
        return total

    yield Case("pooled_sums", shape, once, once, aim, moved=moved)
    yield Case("pooled_node_sums", shape, fused, fused, aim, moved=moved)


def _moments(rows: Tensor) -> Iterator[Case]:
    inputs = rows.shape[1]
    chosen = torch.arange(0, len(rows), 2, device=rows.device)
    outer, total = torch.zeros(inputs, inputs, device=rows.device), torch.zeros(inputs, device=rows.device)

    def once() -> Tensor:
        second_moment(rows, outer, total, chosen)
        return outer

    def result() -> Tensor:
        outer.zero_()
        return once().clone()

    shape = f"{len(chosen)} of {tuple(rows.shape)} {_short(rows)}"
    # Half the products, since the other half is mirrored.
    yield Case(
        "second_moment", shape, once, result, "faster than its twin", operations=len(chosen) * inputs * (inputs + 1)
    )


def _subspaces(rows: Tensor) -> Iterator[Case]:
    some = rows[:SINGLY]

    def once() -> object:
        return batched_subspace(rows, VARIANCE)

    def loop() -> None:
        for one in some:
            torch.linalg.svd(one, full_matrices=False)

    def together() -> None:
        torch.linalg.svd(some, full_matrices=False)

    times = len(rows) / len(some)
    yield Case(
        "batched_subspace",
        f"{tuple(rows.shape)} float32",
        once,
        lambda: batched_subspace(rows, VARIANCE)[1],
        "≥ 20 times torch.linalg.svd in a loop, ≥ 5 times batched",
        moved=2 * rows.nbytes,
        others={"svd, in a loop": (loop, times), "svd, batched": (together, times)},
    )


def _projections(weights: list[Tensor], basis: Tensor) -> Iterator[Case]:
    """As many weights as do not fit a cache, one after the other."""
    weight, count = weights[0], basis.shape[1]
    rows = torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))[:count].to(weight.device)

    def once() -> None:
        for one in weights:
            project_rows_(one, rows, basis)

    def result() -> Tensor:
        edited = weight.clone()
        project_rows_(edited, rows, basis)
        return edited

    shape = f"{len(weights)} × {count} rows of {tuple(weight.shape)} {_short(weight)}, {len(basis)} directions"
    moved = len(weights) * 2 * count * weight.shape[1] * weight.itemsize
    yield Case("project_rows_", shape, once, result, "≥ 80 % of copy bandwidth", moved=moved)


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# Measuring.


@contextmanager
def chosen(kernels: str) -> Iterator[None]:
    """CHIP_KERNELS for a block."""
    before = os.environ.get("CHIP_KERNELS")
    os.environ["CHIP_KERNELS"] = kernels
    try:
        yield
    finally:
        os.environ.pop("CHIP_KERNELS")
        if before is not None:
            os.environ["CHIP_KERNELS"] = before


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """One call, or as many as fill a hundredth of a second on a GPU, whose queue a single one would not fill."""
    calls = 1
    while True:
        began = time.perf_counter()
        for _ in range(calls):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - began
        if device.type != "cuda" or took > 0.01 or calls >= 1024:
            return took / calls
        calls *= 2


def measure(case: Case, device: torch.device, rounds: int) -> dict[str, Any]:
    """Median seconds of twin, Triton and others, in turn; the first round only warms up."""
    forms: dict[str, tuple[str, Callable[[], object], float]] = {"twin": ("torch", case.run, 1.0)}
    found: dict[str, Any] = {"kernel": case.name, "shape": case.shape, "aim": case.aim}
    if device.type == "cuda":
        forms["triton"] = ("triton", case.run, 1.0)
        results = []
        for kernels in ("torch", "triton"):
            with chosen(kernels):
                results.append(case.result().double())
        found["difference"] = float((results[0] - results[1]).norm() / results[0].norm())
    for name, (run, times) in (case.others or {}).items():
        forms[name] = ("torch", run, times)
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds + 1):
        for name, (kernels, run, times) in forms.items():
            with chosen(kernels):
                taken[name].append(times * seconds(run, device))
    found["seconds"] = {name: median(times[1:]) for name, times in taken.items()}
    found |= {"moved": case.moved, "operations": case.operations}
    return found


def limits(device: torch.device, small: bool) -> dict[str, float]:
    """Bytes a second that a large copy reads and writes, and float32 operations a second of a large product."""
    source = torch.zeros((2**26 if small else 2**30) // 4, device=device)
    target = torch.empty_like(source)
    size = 1024 if small else 8192
    first, second = (torch.ones(size, size, device=device) for _ in range(2))
    copy = median(seconds(lambda: target.copy_(source), device) for _ in range(9))
    product = median(seconds(lambda: first @ second, device) for _ in range(9))
    return {"copied": 2 * source.nbytes / copy, "multiplied": 2 * size**3 / product}


# Telling.


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, threads: {torch.get_num_threads()}"


def _triton() -> str:
    try:
        return f"triton {version('triton')}"
    except PackageNotFoundError:
        return "no triton"


def _time(value: float | None) -> str:
    return "unmeasured" if value is None else f"{value * 1e3:.3g} ms"


def describe(found: Mapping[str, Any]) -> str:
    """The results as a page."""
    lines = ["# Kernels\n\n`python benchmarks/kernels.py`; see there what is what.\n"]
    for kind in ("cuda", "cpu"):
        section = found.get(kind)
        lines.append(f"\n## {'A GPU' if kind == 'cuda' else 'A CPU'}\n\n")
        if section is None:
            lines.append(
                "Unmeasured: none was at hand.\n\n| kernel | Triton | aim on an H200-class GPU |\n| --- | --- | --- |\n"
            )
            lines += [f"| {row['kernel']} | unmeasured | {row['aim']} |\n" for row in found["cpu"]["rows"]]
            continue
        copied, multiplied = section["limits"]["copied"], section["limits"]["multiplied"]
        lines.append(
            f"chip {VERSION}, {section['machine']}. Copies {copied / 1e9:.3g} GB/s, multiplies {multiplied / 1e9:.3g} "
            "GFLOP/s in float32.\n\n| kernel | input | twin | Triton | beside it | share | aim on an H200-class GPU |\n"
            "| --- | --- | --- | --- | --- | --- | --- |\n"
        )
        lines += [_line(row, copied, multiplied) for row in section["rows"]]
    return "".join(lines)


def _line(row: Mapping[str, Any], copied: float, multiplied: float) -> str:
    times = dict(row["seconds"])
    twin, triton = times.pop("twin"), times.pop("triton", None)
    best = min(twin, triton or twin)
    share = row["moved"] / best / copied if row["moved"] else row["operations"] / best / multiplied
    beside = "; ".join(f"{name} {_time(one)}, {one / best:.2g} times" for name, one in times.items()) or "–"
    of = "copy" if row["moved"] else "product"
    return (
        f"| {row['kernel']} | {row['shape']} | {_time(twin)} | {_time(triton)} | {beside} | {share:.0%} of {of} | "
        f"{row['aim']} |\n"
    )


def main(
    device: Annotated[str, typer.Option(help="cuda or cpu; cuda where there is one.")] = "",
    small: Annotated[bool | None, typer.Option("--small/--full", help="Sizes; small on a CPU by default.")] = None,
    rounds: Annotated[int, typer.Option(help="Times everything is timed, in turn.")] = 5,
) -> None:
    """Run, print and write the results."""
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    reduced = on.type == "cpu" if small is None else small
    results = RESULTS / "kernels.json"
    found = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    rows = []
    for case in cases(on, SIZES["small" if reduced else "full"]):
        rows.append(measure(case, on, rounds))
        typer.echo(json.dumps(rows[-1]))
    found[on.type] = {
        "machine": f"torch {torch.__version__}, {_triton()}, Python {platform.python_version()} on {_name(on)}",
        "size": "small" if reduced else "full",
        "limits": limits(on, reduced),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "kernels.md").write_text(describe(found), encoding="utf-8")
    typer.echo(describe(found))


if __name__ == "__main__":
    typer.run(main)
