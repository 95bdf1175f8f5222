"""Collecting beside the published pattern and a fair loop, on the same model and records, interleaved in one run.

    python benchmarks/collect.py [--rounds 3] [--work DIR] [--only llava|text|scaling|7b]

*published* is how the published code collects: every record at the target's level and again at its child level, four at
a time in the order of the file, with the logits, each image encoded for each of its questions, all activations of a
batch kept until its end and every record's pooled activations until the end of all. *fair* runs each record once
without logits, in batches of like length, and keeps sums. All three pool the same sites and are shown to agree; *chip,
everything* gathers second moments too. Memory is the peak of a process of its own beyond what the loaded model takes.
Writes `benchmarks/results/collect.md` and `.json`, and the plots in docs/. About 20 minutes on two cores.
"""

import json
import multiprocessing
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import shapes
import torch
import transformers
import typer
from PIL import Image
from torch import Tensor

from chip.cli.options import quiet_libraries
from chip.collect import Statistics, Wanted, collect
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records
from chip.version import VERSION

ALPHA = 0.3
BATCH = {"published": 4, "fair": 8}
RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"

Sums = dict[str, Tensor]
"""By site, the pooled activations of all records added up, (D,)."""


@dataclass(frozen=True)
class Case:
    """A model with records to collect."""

    name: str
    model: Path
    data: Path


# The loops that chip is measured against. They share nothing with it but the model, its processor and its sites.


def encode(loaded: LoadedModel, records: Sequence[Record]) -> dict[str, Tensor]:
    """A padded batch, as the model's own processor makes it."""
    processor, texts, pictures = loaded.prompts.processor, [], []
    for record in records:
        question: Any = [{"type": "text", "text": record.question}]
        answer: Any = [{"type": "text", "text": record.answer}]
        if record.images:
            question.insert(0, {"type": "image"})
            pictures += [Image.open(path).convert("RGB") for path in record.images]
        if not loaded.prompts.sees:
            question, answer = record.question, record.answer
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        texts.append(processor.apply_chat_template(turns, tokenize=False))
    images = {"images": pictures} if pictures else {}
    made = processor(text=texts, padding=True, return_tensors="pt", **images)
    return {key: value.to(loaded.device) for key, value in dict(made).items()}


def pooled(loaded: LoadedModel, role: str, output: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Pooled activations (B, D) of a batch at one site, padding left out."""
    if role == "projector":
        return output.reshape(len(inputs["input_ids"]), -1, output.shape[-1]).mean(1)
    image = inputs["input_ids"] == loaded.prompts.image_token_id if loaded.prompts.sees else None
    text = inputs["attention_mask"].bool()
    if image is None or not image.any():
        return _mean(output, text)
    return ALPHA * _mean(output, image) + (1 - ALPHA) * _mean(output, text & ~image)


def _mean(output: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(output.dtype)[:, None]
    return (weights @ output).squeeze(1) / weights.sum(-1)


def published(loaded: LoadedModel, records: Sequence[Record]) -> Sums:
    """Twice over all records; all activations of a batch are kept to its end, and each record's own to the very end."""
    sites = [site for site in loaded.sites if site.role in ("language", "projector")]
    kept: dict[str, dict[str, list[Tensor]]] = {}
    for level in ("target", "child"):
        kept[level] = {site.name: [] for site in sites}
        for start in range(0, len(records), BATCH["published"]):
            inputs = encode(loaded, records[start : start + BATCH["published"]])
            outputs: Sums = {}
            hooks = [site.watch(loaded.model, _keeping(outputs, site.name)) for site in sites]
            with torch.no_grad():
                loaded.model(**inputs, use_cache=False)
            for hook in hooks:
                hook.remove()
            for site in sites:
                if site.name in outputs:
                    kept[level][site.name] += pooled(loaded, site.role, outputs[site.name], inputs).unbind()
    return {name: torch.stack(rows).double().sum(0) for name, rows in kept["child"].items()}


def _keeping(outputs: Sums, name: str) -> Callable[[Tensor, Tensor], None]:
    return lambda _, output: outputs.update({name: output})


def fair(loaded: LoadedModel, records: Sequence[Record]) -> Sums:
    """Once over all records in the order of their lengths, without logits, keeping sums."""
    order = sorted(records, key=lambda record: len(record.question) + len(record.answer))
    sums: Sums = {}
    for start in range(0, len(order), BATCH["fair"]):
        inputs = encode(loaded, order[start : start + BATCH["fair"]])

        def add(site: Any, output: Tensor, inputs: dict[str, Tensor] = inputs) -> None:
            sums[site.name] = sums.get(site.name, 0) + pooled(loaded, site.role, output, inputs).double().sum(0)

        sites = [site for site in loaded.sites if site.role in ("language", "projector")]
        hooks = [site.watch(loaded.model, lambda _, output, site=site: add(site, output)) for site in sites]
        with torch.no_grad():
            loaded.model.base_model(**inputs, use_cache=False)
        for hook in hooks:
            hook.remove()
    return sums


def with_chip(loaded: LoadedModel, records: Sequence[Record]) -> Sums:
    """The same sums by chip."""
    names = tuple(site.name for site in loaded.sites if site.role in ("language", "projector"))
    return _sums(collect(loaded, records, Wanted(pooled=names), alpha=ALPHA))


def with_chip_everything(loaded: LoadedModel, records: Sequence[Record]) -> Sums:
    """All that `chip collect` gathers: second moments of answer and image tokens too."""
    last = [site for site in loaded.sites if site.last]
    wanted = Wanted(
        pooled=tuple(site.name for site in loaded.sites if site.role in ("language", "projector")),
        answer=tuple(site.name for site in last if site.role == "language"),
        image=tuple(site.name for site in last if site.role == "projector"),
    )
    return _sums(collect(loaded, records, wanted, alpha=ALPHA))


def _sums(statistics: Statistics) -> Sums:
    return {name: sums.total.double().sum(0) for name, sums in statistics.pooled.items()}


LOOPS: dict[str, Callable[[LoadedModel, Sequence[Record]], Sums]] = {
    "published": published,
    "fair": fair,
    "chip": with_chip,
    "chip, everything": with_chip_everything,
}


# Measuring.


class Peak:
    """The most resident memory of this process while the block runs, beyond what it had before, in MiB."""

    def __enter__(self) -> "Peak":
        self._process = psutil.Process()
        self._before = self._most = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def mebibytes(self) -> float:
        return (self._most - self._before) / 2**20

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._most = max(self._most, self._process.memory_info().rss)


def _loaded(case: Case) -> tuple[LoadedModel, Sequence[Record]]:
    return load_model(Checkpoint(case.model), "cpu"), read_records(case.data).records


def _measure_memory(case: Case, loop: str, out: Any) -> None:
    quiet_libraries()
    loaded, records = _loaded(case)
    LOOPS[loop](loaded, records[:4])  # what libraries allocate once is not held against a loop
    with Peak() as peak:
        LOOPS[loop](loaded, records)
    out.put(peak.mebibytes)


def peak_memory(case: Case, loop: str) -> float:
    """Peak memory of a loop in a fresh process, in MiB beyond the loaded model."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=_measure_memory, args=(case, loop, out))
    process.start()
    found = float(out.get())
    process.join()
    return found


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of every loop, interleaved, and peak memory; the sums are shown to agree first."""
    loaded, records = _loaded(case)
    seconds: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    sums: dict[str, Sums] = {}
    for _ in range(rounds):
        for name, loop in LOOPS.items():
            began = time.perf_counter()
            sums[name] = loop(loaded, records)
            seconds[name].append(time.perf_counter() - began)
            typer.echo(f"{case.name}: {name} {seconds[name][-1]:.2f} s")
    worst = max(
        float((sums[name][site] - total).norm() / total.norm())
        for name in LOOPS
        for site, total in sums["fair"].items()
        if float(total.norm())
    )
    memory = {name: peak_memory(case, name) for name in LOOPS}
    typer.echo(f"{case.name}: memory {memory}")
    return {
        "records": len(records),
        "images": len({path for record in records for path in record.images}),
        "seconds": seconds,
        "memory_mib": memory,
        "largest_relative_difference": worst,
    }


def on_accelerator(work: Path, text: dict[str, int], vision: dict[str, int]) -> dict[str, Any]:
    """A random Qwen2.5-VL on the accelerator: records a second, its FLOPs against a matrix product's, the fair loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = shapes.qwen(device, dtype, text, vision)
    records = read_records(shapes.records(work / "records", 32, 8)).records
    wanted = Wanted(answer=tuple(site.name for site in loaded.sites if site.role == "language" and site.last))
    tokens = [0]
    layer = loaded.model.get_submodule(f"{loaded.family.layers}.0")
    counting = layer.register_forward_pre_hook(
        lambda _, given: tokens.__setitem__(0, tokens[0] + given[0].shape[0] * given[0].shape[1])
    )
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    sketched = dict.fromkeys(wanted.answer, 256)
    loops: dict[str, Callable[[], object]] = {
        "fair": lambda: fair(loaded, records[:64]),
        "chip, pooled": lambda: with_chip(loaded, records),
        "chip, second moments sketched with 256 rows": lambda: collect(
            loaded, records, wanted, batch_tokens=8192, workers=8, sketched=sketched
        ),
    }
    parameters = sum(p.numel() for name, p in loaded.model.named_parameters() if ".layers." in name)
    for name, loop in loops.items():
        for _ in range(2):  # the first round warms up
            tokens[0] = 0
            began = time.perf_counter()
            loop()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        count = 64 if name == "fair" else len(records)
        found[name] = {
            "records_per_second": count / seconds,
            "language_tflops": 2 * parameters * tokens[0] / seconds / 1e12,
        }
    counting.remove()
    found["matrix_product_tflops"] = _matrix_tflops(device, dtype)
    return found


def _matrix_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """What the device makes of a large matrix product, in the same run."""
    size = 8192 if device.type == "cuda" else 1024
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(10):
        began = time.perf_counter()
        first @ second
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / median(times) / 1e12


def scaling(work: Path) -> dict[str, Any]:
    """Seconds and memory of chip as records and as questions an image are doubled, at the same number of studies."""
    model = shapes.llava(work / "llava")
    found: dict[str, Any] = {"records": [], "questions": []}
    sizes = {"records": [(4, 8), (8, 8), (16, 8), (32, 8)], "questions": [(8, 1), (8, 2), (8, 4), (8, 8), (8, 16)]}
    for kind, pairs in sizes.items():
        for images, questions in pairs:
            data = shapes.records(work / f"{kind}-{images}-{questions}", images, questions, studies=4)
            case = Case(f"{images} images with {questions} questions", model, data)
            loaded, records = _loaded(case)
            with_chip_everything(loaded, records[:8])
            timed = []
            for _ in range(3):
                began = time.perf_counter()
                with_chip_everything(loaded, records)
                timed.append(time.perf_counter() - began)
            row = {
                "images": images,
                "questions": questions,
                "records": len(records),
                "seconds": timed,
                "memory_mib": peak_memory(case, "chip, everything"),
            }
            typer.echo(json.dumps(row))
            found[kind].append(row)
    return found


# Telling.


def plot(found: dict[str, Any]) -> None:
    """Two pictures for docs/: time and memory against records, and against questions an image."""
    from matplotlib import pyplot

    for kind, across in (("records", "records (8 questions an image)"), ("questions", "questions an image (8 images)")):
        rows = found[kind]
        axis = [row[kind] for row in rows]
        seconds = [median(row["seconds"]) for row in rows]
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3))
        left.plot(axis, seconds, marker="o", label="measured")
        left.plot(axis, [seconds[0] * one / axis[0] for one in axis], linestyle="--", label="in proportion")
        left.set(xlabel=across, ylabel="seconds", ylim=(0, None))
        left.legend()
        right.plot(axis, [row["memory_mib"] for row in rows], marker="o")
        right.set(xlabel=across, ylabel="MiB beyond the model", ylim=(0, None))
        figure.tight_layout()
        figure.savefig(DOCS / f"collecting-{kind}.png", dpi=120)
        pyplot.close(figure)


def describe(found: dict[str, Any]) -> str:
    """The results as a page."""
    lines = [
        f"# Collecting\n\nchip {VERSION}, {found['machine']}. `python benchmarks/collect.py`; see there what is what.\n"
    ]
    for name, case in found["cases"].items():
        lines.append(
            f"\n## {name}\n\n{case['records']} records, {case['images']} images, {len(case['seconds']['chip'])} "
            f"interleaved rounds; sums agree to {case['largest_relative_difference']:.0e} (relative, worst site).\n\n"
            "| loop | seconds (median; all rounds) | times as long as chip | MiB beyond the model |\n"
            "| --- | --- | --- | --- |\n"
        )
        chip = median(case["seconds"]["chip"])
        for loop, seconds in case["seconds"].items():
            each = ", ".join(f"{one:.2f}" for one in seconds)
            memory = case["memory_mib"][loop]
            lines.append(f"| {loop} | {median(seconds):.2f} ({each}) | {median(seconds) / chip:.1f} | {memory:.0f} |\n")
    if "scaling" in found:
        lines.append("\n## Scaling (chip, everything)\n\n| images | questions an image | records | seconds | MiB |\n")
        lines.append("| --- | --- | --- | --- | --- |\n")
        for row in (*found["scaling"]["records"], *found["scaling"]["questions"]):
            lines.append(
                f"| {row['images']} | {row['questions']} | {row['records']} | {median(row['seconds']):.2f} | "
                f"{row['memory_mib']:.0f} |\n"
            )
    if "accelerator" in found:
        lines.append(f"\n## Qwen2.5-VL-7B shape\n\n```json\n{json.dumps(found['accelerator'], indent=1)}\n```\n")
    else:
        lines.append("\n## Qwen2.5-VL-7B shape\n\nNot measured yet: no GPU was at hand (`--only 7b`).\n")
    return "".join(lines)


def main(
    rounds: Annotated[int, typer.Option(help="Times every loop is run.")] = 3,
    work: Annotated[Path | None, typer.Option(help="Where models and records are made; removed if not given.")] = None,
    only: Annotated[str, typer.Option(help="llava, text or scaling, all by default; or 7b, on a GPU.")] = "",
) -> None:
    """Run, print and write the results."""
    quiet_libraries()
    results = RESULTS / "collect.json"
    found = json.loads(results.read_text()) if only and results.is_file() else {"cases": {}}
    found["machine"] = (
        f"torch {torch.__version__} on {torch.get_num_threads()} threads of {platform.machine()}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}, no accelerator"
    )
    with tempfile.TemporaryDirectory() as made:
        at = work or Path(made)
        if only in ("", "llava"):
            data = shapes.records(at / "records", 8, 8)
            found["cases"]["LLaVA shape, 576 image tokens, 8 questions an image, 4 levels"] = compare(
                Case("llava", shapes.llava(at / "llava"), data), rounds
            )
        if only in ("", "text"):
            data = shapes.records(at / "text-records", 32, 8, shown=False)
            found["cases"]["text only, no shared prefix"] = compare(
                Case("text", shapes.text_model(at / "text"), data), rounds
            )
        if only == "7b":
            found["accelerator"] = on_accelerator(at / "7b", *shapes.QWEN_7B)
            typer.echo(json.dumps(found["accelerator"], indent=1))
        if only in ("", "scaling"):
            found["scaling"] = scaling(at / "scaling")
            plot(found["scaling"])
    RESULTS.mkdir(exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "collect.md").write_text(describe(found), encoding="utf-8")
    typer.echo(describe(found))


if __name__ == "__main__":
    typer.run(main)
