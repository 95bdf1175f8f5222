"""Whatever a file says, the answer is a result or a sentence: of 50,000 inputs, the same in every run, a tenth.

`make fuzz` tries all of them or many times as many, drawn otherwise: FUZZ_TIMES and FUZZ_SEED.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from checkpoint_files import digests
from fuzzing import CORPUS, Mutation, Target, attack, lay, mutants, of_json, of_lines, of_safetensors
from safetensors.numpy import save
from safetensors.torch import save_file

from chip.edit import Applying, Change, Edit, StagedCheckpoint, load_edits
from chip.edit.journal import recover_model
from chip.edit.ledger import read_ledgers
from chip.edit.merge import adapter_edit
from chip.edit.receipt import read_receipt
from chip.files import journal_of
from chip.models.checkpoint import INDEX, Checkpoint
from chip.models.stored import DTYPES, read_header
from chip.records import read_records
from chip.workflow.apply import ApplyRequest, carry_out_apply, prepare_apply
from chip.workflow.requests import read_requests

TIMES, SEED = float(os.environ.get("FUZZ_TIMES", "0.1")), int(os.environ.get("FUZZ_SEED", "0"))
A, B = "model-1.safetensors", "model-2.safetensors"
CONFIG = b'{"model_type": "llama", "quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}}'
WEIGHTS = {"x.weight": np.ones((4, 4), np.float32), "x.bias": np.ones(4, np.float32)}
RECORD = {"path": ["a", "b", "c"], "image": "a.png", "question": "q ?", "answer": "yes", "paraphrases": ["r ?"]}


@dataclass(frozen=True)
class Fuzzed:
    """A target, how its inputs are made and how many."""

    target: Target
    mutation: Mutation
    count: int


def header(directory: Path, data: bytes) -> None:
    """Every tensor lies within its file, and the reference reads whatever is read here."""
    path = directory / "model.safetensors"
    lay(path, data)
    found = read_header(path)
    safetensors.deserialize(data)
    for tensor in found.tensors:
        assert found.end <= tensor.start <= tensor.stop <= len(data)
        if tensor.dtype in DTYPES:
            assert tensor.read().nbytes == tensor.stop - tensor.start
        assert tensor.digest()


def index(directory: Path, data: bytes) -> None:
    lay(directory / INDEX, data)
    checkpoint = Checkpoint(directory)
    assert {path.parent for path in checkpoint.files} == {directory}
    assert checkpoint.matrix("a.weight").read().shape == (2, 3)


def config(directory: Path, data: bytes) -> None:
    lay(directory / "config.json", data)
    assert Checkpoint(directory).matrix("x.weight").read().shape == (4, 4)


def scales(directory: Path, data: bytes) -> None:
    """An fp8 weight whose file says anything of itself and of its scales."""
    lay(directory / "model.safetensors", data)
    matrix = Checkpoint(directory).matrix("x.weight")
    rows = matrix.read().reshape(matrix.shape[0] if matrix.shape else 1, -1).astype(np.float64)
    for piece in matrix.fitted([(0, rows)]).encode(rows, 0):
        assert piece.tensor.start <= piece.start <= piece.start + len(piece.data) <= piece.tensor.stop


def edits(directory: Path, data: bytes) -> None:
    path = directory / "edit.safetensors"
    lay(path, data)
    for edit in load_edits(path):
        assert edit.identity
        for change in edit.changes:
            change.refuse_misfit((4, 4))
            assert change.added(WEIGHTS["x.weight"]).shape == (4, 4)


def records(directory: Path, data: bytes) -> None:
    lay(directory / "records.jsonl", data)
    assert all(image.parent == directory for record in read_records(directory).records for image in record.images)


def levels(directory: Path, data: bytes) -> None:
    lay(directory / "dataset.json", data)
    assert read_records(directory).levels


def adapter(directory: Path, data: bytes) -> None:
    lay(directory / "adapter" / "adapter_config.json", data)
    assert adapter_edit(directory / "adapter", Checkpoint(directory / "base")).changes


def factors(directory: Path, data: bytes) -> None:
    lay(directory / "adapter" / "adapter_model.safetensors", data)
    assert adapter_edit(directory / "adapter", Checkpoint(directory / "base")).changes


def written(directory: Path, data: bytes) -> None:
    """An edit of a checkpoint whose index says anything changes nothing but the output."""
    base, out = directory / "base", directory / "outputs" / "out"
    lay(base / INDEX, data)
    edit = Edit("test", {}, (Change("a.weight", np.ones((2, 3), np.float32), None),))
    before = digests(directory)
    try:
        with StagedCheckpoint(Checkpoint(base), Applying([edit]), out, force=True) as staged:
            staged.prove()
            staged.commit()
    finally:
        after = {name: one for name, one in digests(directory).items() if not name.startswith("outputs/out/")}
        assert after == {name: one for name, one in before.items() if not name.startswith("outputs/out/")}
        assert os.listdir(directory / "outputs") in ([], ["out"])


def receipt(directory: Path, data: bytes) -> None:
    lay(directory / "receipt.json", data)
    assert read_receipt(directory / "receipt.json")["format"]


def requests(directory: Path, data: bytes) -> None:
    lay(directory / "requests.jsonl", data)
    for asked in read_requests(directory / "requests.jsonl"):
        out = directory / asked.name
        assert asked.forget
        assert out.parent == directory
        assert not out.is_symlink()


def ledger(directory: Path, data: bytes) -> None:
    lay(directory / "ledger.json", data)
    found = read_ledgers([directory / "ledger.json"], b"s" * 32)
    for entry in found.entries:
        assert entry.nodes is not None
        if entry.nodes:
            assert found.forgotten(entry.checkpoint) >= set(entry.nodes)


def journal(directory: Path, data: bytes) -> None:
    """Whatever a journal says, nothing is written but to files of the model, and those keep their size."""
    model = directory / "model"
    lay(journal_of(model), data)
    sizes = {path.name: path.stat().st_size for path in model.iterdir()}
    try:
        recover_model(model)
    finally:
        assert {path.name: path.stat().st_size for path in model.iterdir()} == sizes
        (model / "model.safetensors").write_bytes(save(WEIGHTS))


def carried(directory: Path, data: bytes) -> None:
    """An edit file is carried over to a checkpoint and written: the output appears, or nothing does."""
    base, out, edit = directory / "base", directory / "outputs" / "out", directory / "edit.safetensors"
    lay(edit, data)
    before = digests(base)
    asked = ApplyRequest((base,), (edit,), out, transfer=True, force=True)
    try:
        carry_out_apply(asked, prepare_apply(asked))
        assert digests(out).keys() == before.keys()
    finally:
        assert digests(base) == before
        assert set(os.listdir(directory / "outputs")) <= {"out", "out.receipt.json"}


TARGETS = {
    "header": Fuzzed(header, of_safetensors, 18_000),
    "index": Fuzzed(index, of_json, 6_000),
    "config": Fuzzed(config, of_json, 5_000),
    "scales": Fuzzed(scales, of_safetensors, 4_000),
    "edits": Fuzzed(edits, of_safetensors, 8_000),
    "receipt": Fuzzed(receipt, of_json, 1_000),
    "records": Fuzzed(records, of_lines, 6_000),
    "levels": Fuzzed(levels, of_json, 1_500),
    "adapter": Fuzzed(adapter, of_json, 1_500),
    "factors": Fuzzed(factors, of_safetensors, 1_500),
    "written": Fuzzed(written, of_json, 500),
    "requests": Fuzzed(requests, of_lines, 5_000),
    "ledger": Fuzzed(ledger, of_json, 3_000),
    "journal": Fuzzed(journal, of_safetensors, 2_000),
    "carried": Fuzzed(carried, of_safetensors, 600),
}


def lay_out(directory: Path, name: str) -> None:
    """What stands around the file that a target fuzzes."""
    base = directory / "base" if name in ("written", "adapter", "factors", "carried") else directory
    base = directory / "model" if name == "journal" else base
    for path in (base, directory / "adapter", directory / "outputs"):
        path.mkdir(parents=True, exist_ok=True)
    (base / "config.json").write_bytes(b'{"model_type": "llama"}' if name != "scales" else CONFIG)
    if name in ("index", "written"):
        save_file({"a.weight": torch.ones(2, 3), "b": torch.ones(2)}, base / A)
        save_file({"c": torch.ones(2), "a.weight": torch.ones(2, 3)}, base / B)
        (base / "elsewhere.safetensors").symlink_to(directory.parent / "outside.safetensors")
        (directory.parent / "outside.safetensors").write_bytes(b"private")
    elif name in ("config", "adapter", "factors", "journal", "carried"):
        (base / "model.safetensors").write_bytes(save(WEIGHTS))
    if name == "levels":
        (directory / "records.jsonl").write_text(json.dumps({**RECORD, "image": None}))
    for image in ("a.png", "b.png") if name == "records" else ():
        (directory / image).write_bytes(b"")
    for part in ("adapter_config.json", "adapter_model.safetensors") if name in ("adapter", "factors") else ():
        kept = sorted((CORPUS / {"a": "adapter", "m": "factors"}["a" if "config" in part else "m"]).glob("good*"))
        (directory / "adapter" / part).write_bytes(kept[0].read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_a_result_or_a_sentence(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "inside"
    directory.mkdir()
    lay_out(directory, name)
    fuzzed = TARGETS[name]
    seeds = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    count = max(len(seeds), round(fuzzed.count * TIMES))
    for data in mutants(seeds, fuzzed.mutation, count, seed=1000 * SEED + len(name)):
        attack(fuzzed.target, directory, data)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_accepts_what_is_good(tmp_path: Path, name: str) -> None:
    """Otherwise mutants of it would all be refused at the door."""
    lay_out(tmp_path, name)
    good = sorted((CORPUS / name).glob("good*"))
    assert good
    for path in good:
        TARGETS[name].target(tmp_path, path.read_bytes())


def test_there_are_fifty_thousand_of_them() -> None:
    assert sum(fuzzed.count for fuzzed in TARGETS.values()) >= 50_000
