"""Writing an edited checkpoint, beside `cp -r` of it and beside loading and saving it, in one run.

    python benchmarks/write.py [--gigabytes 4] [--rounds 3] [--directory DIR] [--no-saving]

A random bfloat16 checkpoint of Qwen2.5-7B's layer shapes, as many layers as fill the gigabytes, in shards of 2 GB; the
edit is of rank 64 at every layer's attention output and last MLP linear, as the default method's is. Each contender
starts from a cold cache, and its time ends when all that it wrote is on disk (fsync). `chip verify` is timed apart.
Memory is the largest resident set of the process. Needs 3 times the gigabytes of disk, and for saving as much memory as
the checkpoint takes.
Writes `benchmarks/results/write.json` and `.md`, one row a size and a file system.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import ml_dtypes
import numpy as np
import typer

from chip.edit import Change, Edit, save_edits
from chip.models.checkpoint import Checkpoint
from chip.version import VERSION

RESULTS = Path(__file__).parent / "results"
HIDDEN, MLP, HEADS, KEYS, VOCABULARY = 3584, 18_944, 28, 4, 32_000
SHARD_BYTES = 2 << 30
RANK = 64
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
SAVE = """
import os, sys
from pathlib import Path
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM
source, factors, target = sys.argv[1:]
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, local_files_only=True)
held = load_file(factors)
with torch.no_grad():
    for number, name in enumerate(sorted(n for n, _ in model.named_parameters() if "down_proj" in n or "o_proj" in n)):
        left, right = (torch.from_numpy(held[f"0/{number}/{side}"]) for side in ("left", "right"))
        model.get_parameter(name).add_(left @ right)
model.save_pretrained(target)
for path in Path(target).iterdir():
    handle = os.open(path, os.O_RDONLY); os.fsync(handle); os.close(handle)
"""


@dataclass(frozen=True)
class Run:
    """What one process took: wall seconds, and the largest resident set in bytes."""

    seconds: float
    memory: int


def main(
    gigabytes: Annotated[list[float] | None, typer.Option(help="Sizes; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds, in each of which every contender runs once.")] = 3,
    directory: Annotated[Path | None, typer.Option(help="Where to work; the file system is what is measured.")] = None,
    saving: Annotated[bool, typer.Option(help="Also load and save with transformers.")] = True,
) -> None:
    """Measure, and write the results."""
    for size in gigabytes or [4.0]:
        with tempfile.TemporaryDirectory(dir=directory) as place:
            _keep(_measure(Path(place), size, rounds, saving=saving))


def _measure(place: Path, gigabytes: float, rounds: int, *, saving: bool) -> dict[str, Any]:
    layers = max(1, round((gigabytes * 1e9 / 2 - 2 * VOCABULARY * HIDDEN) / _layer_numbers()))
    source, edit = place / "source", place / "edit"
    # In a process of its own: what this one ever held would count as its children's.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        apart.submit(make_checkpoint, source, layers).result()
        edited = apart.submit(make_edit, source, edit).result()
    total = sum(path.stat().st_size for path in source.iterdir())
    chip = [sys.executable, "-m", "chip"]
    contenders = {
        "cp -r": ["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(source), str(place / "out")],
        "chip apply": [*chip, "apply", str(source), str(edit), "--out", str(place / "out"), "--no-verify"],
    }
    if saving:
        contenders["save_pretrained"] = [sys.executable, "-c", SAVE, str(source), str(edit), str(place / "out")]
    runs: dict[str, list[Run]] = {name: [] for name in (*contenders, "chip verify")}
    for _ in range(rounds):
        for name, command in contenders.items():
            shutil.rmtree(place / "out", ignore_errors=True)
            runs[name].append(_run(command, source))
            if name == "chip apply":
                verify = [*chip, "verify", str(place / "out"), "--against", str(source), "--edit", str(edit)]
                runs["chip verify"].append(_run(verify, source))
    return {
        "bytes": total,
        "edited": edited,
        "rounds": rounds,
        "file system": _file_system(place),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {_threads()} threads",
        "chip": VERSION,
        "seconds": {name: [round(run.seconds, 2) for run in found] for name, found in runs.items()},
        "memory": {name: max(run.memory for run in found) for name, found in runs.items() if found},
    }


def make_checkpoint(directory: Path, layers: int) -> None:
    """A loadable checkpoint of random weights, written shard by shard."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    noise = np.random.default_rng(0).normal(scale=0.02, size=MLP * HIDDEN + 4096).astype(ml_dtypes.bfloat16)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    held = 0
    for name, shape in _tensors(layers):
        size = 2 * int(np.prod(shape))
        if held and held + size > SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append((name, shape))
        held += size
    weight_map = {}
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        weight_map |= {name: file for name, _ in shard}
        _write_shard(directory / file, shard, noise)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in directory.iterdir():
        _sync(path)


def make_edit(source: Path, path: Path) -> int:
    """An edit of rank 64 at every layer's attention output and last MLP linear; the bytes of what it edits."""
    base, rng = Checkpoint(source), np.random.default_rng(1)
    names = sorted(name for name in base.tensors if "down_proj" in name or "o_proj" in name)
    changes = []
    for name in names:
        outputs, inputs = base.tensors[name].shape
        left, right = (rng.normal(scale=1e-3, size=size) for size in ((outputs, RANK), (RANK, inputs)))
        changes.append(Change(name, left.astype(np.float32), right.astype(np.float32)))
    digests = {name: base.tensors[name].digest() for name in names}
    save_edits([Edit("oblique", {}, tuple(changes), digests)], path)
    return sum(base.tensors[name].stop - base.tensors[name].start for name in names)


def _tensors(layers: int) -> list[tuple[str, tuple[int, ...]]]:
    found: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (VOCABULARY, HIDDEN))]
    for number in range(layers):
        found += [(f"model.layers.{number}.{name}", shape) for name, shape in _layer().items()]
    return [*found, ("model.norm.weight", (HIDDEN,)), ("lm_head.weight", (VOCABULARY, HIDDEN))]


def _layer() -> dict[str, tuple[int, ...]]:
    width = HIDDEN // HEADS * KEYS
    attention = {"q_proj": HIDDEN, "k_proj": width, "v_proj": width}
    return {
        "input_layernorm.weight": (HIDDEN,),
        "mlp.down_proj.weight": (HIDDEN, MLP),
        "mlp.gate_proj.weight": (MLP, HIDDEN),
        "mlp.up_proj.weight": (MLP, HIDDEN),
        "post_attention_layernorm.weight": (HIDDEN,),
        **{f"self_attn.{name}.bias": (size,) for name, size in attention.items()},
        **{f"self_attn.{name}.weight": (size, HIDDEN) for name, size in attention.items()},
        "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    }


def _layer_numbers() -> int:
    return sum(int(np.prod(shape)) for shape in _layer().values())


def _write_shard(path: Path, shard: Sequence[tuple[str, tuple[int, ...]]], noise: np.ndarray[Any, Any]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shard:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as handle:
        handle.write(len(encoded).to_bytes(8, "little") + encoded)
        for number, (_, shape) in enumerate(shard):
            left, start = int(np.prod(shape)), number * 37 % 4096
            while left:
                block = noise[start : start + min(left, MLP * HIDDEN)]
                handle.write(block.view(np.uint16).data.cast("B"))
                left -= len(block)


def _run(command: Sequence[str], source: Path) -> Run:
    """Run a command from a cold cache; raises where it fails."""
    os.sync()
    for path in source.iterdir():
        _forget(path)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"{command[0]} failed: {process.stderr.read().decode()[-2000:]}")
    return Run(seconds, usage.ru_maxrss * 1024)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(_threads()), "HF_HUB_OFFLINE": "1"}


def _threads() -> int:
    return os.cpu_count() or 1


def _forget(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _file_system(place: Path) -> str:
    asked = subprocess.run(["stat", "-f", "-c", "%T", str(place)], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def _keep(found: dict[str, Any]) -> None:
    """Put a measurement in the place of an older one of the same size and file system, and write the table anew."""
    path = RESULTS / "write.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    alike = (round(found["bytes"] / 1e9), found["file system"])
    rows = [row for row in rows if (round(row["bytes"] / 1e9), row["file system"]) != alike] + [found]
    rows.sort(key=lambda row: (row["file system"], row["bytes"]))
    path.write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "write.md").write_text(_table(rows))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "# Writing an edited checkpoint",
        "",
        "`python benchmarks/write.py`; see there what is what. Medians of the rounds; seconds from a cold cache until",
        "all is on disk. *Of cp*: the throughput of `chip apply` over that of `cp -r`; *times quicker*: than saving.",
        "",
        "| GB | edited GB | file system | rounds | cp -r | chip apply | of cp | load and save | times quicker | "
        "chip verify | memory of apply, verify, load and save |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        took = {name: median(found) for name, found in row["seconds"].items() if found}
        saved = took.get("save_pretrained")
        memory = ", ".join(
            f"{row['memory'][name] / 2**20:,.0f} MiB"
            for name in ("chip apply", "chip verify", "save_pretrained")
            if name in row["memory"]
        )
        lines.append(
            f"| {row['bytes'] / 1e9:.1f} | {row['edited'] / 1e9:.2f} | {row['file system']} | {row['rounds']} | "
            f"{took['cp -r']:.1f} s | {took['chip apply']:.1f} s | {took['cp -r'] / took['chip apply']:.2f} | "
            + (f"{saved:.1f} s | {saved / took['chip apply']:.1f} | " if saved else "– | – | ")
            + f"{took['chip verify']:.1f} s | {memory} |"
        )
    machines = sorted({f"chip {row['chip']} on {row['machine']}" for row in rows})
    return "\n".join([*lines, "", "; ".join(machines) + ".", ""])


if __name__ == "__main__":
    typer.run(main)
