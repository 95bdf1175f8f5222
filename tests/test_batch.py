"""Batches: many requests from one model, alone or in one checkpoint, skipped when finished and failing alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from checkpoint_files import digests, mode
from command_line import chip_here
from edits import run_edit
from processes import start, until

from chip.edit import StagedCheckpoint, load_edit
from chip.edit.ledger import nodes_among, read_ledgers
from chip.edit.receipt import read_salt
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.stored import rounded
from chip.records import read_records
from chip.workflow import BatchRequest, BatchResult, carry_out_batch, prepare_batch


def requests_file(path: Path, *lines: dict[str, Any] | str) -> Path:
    """A file of requests, from objects or from names to forget."""
    objects = ({"forget": line} if isinstance(line, str) else line for line in lines)
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def run_batch(model: Path, data: Path, out_dir: Path, *lines: dict[str, Any] | str, **others: Any) -> BatchResult:
    """A batch in this process, without verification unless asked for."""
    requests = requests_file(out_dir.with_name(out_dir.name + ".jsonl"), *lines)
    values = {"verify": False, "device": "cpu", **others}
    return carry_out_batch(prepare_batch(BatchRequest(str(model), requests, data, out_dir, **values)))


def weights(out_dir: Path) -> dict[str, str]:
    """Digests of everything in a batch's output that has to be the same every time."""
    varying = (".json", ".statistics.safetensors")
    return {name: one for name, one in digests(out_dir).items() if "/" in name or not name.endswith(varying)}


def states(result: BatchResult) -> list[str]:
    return [one.state for one in result.outcomes]


class TestIndependent:
    @pytest.mark.parametrize("method", ["counterpart", "oblique", "chip"])
    def test_each_is_what_an_edit_by_itself_gives(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, method: str
    ) -> None:
        settings = {"method": method, "keys": "answer"} if method == "oblique" else {"method": method}
        lines = [{"forget": name, "out": name[-1], "settings": settings} for name in ("patient_0", "patient_2")]
        result = run_batch(llava_directory, hospital_data, tmp_path / "out", *lines)
        assert states(result) == ["done", "done"]
        for name in ("patient_0", "patient_2"):
            alone = run_edit(llava_directory, hospital_data, tmp_path / name, name, **settings)
            kept = load_edit(tmp_path / "out" / f"{name[-1]}.edit.safetensors")
            for mine, theirs in zip(kept.changes, alone.edit.changes, strict=True):
                assert mine.tensor == theirs.tensor
                np.testing.assert_allclose(mine.delta(), theirs.delta(), rtol=1e-4, atol=1e-7)
