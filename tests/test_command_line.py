"""The command line as its users meet it: quick help, one JSON object, plain errors, and the same bytes every time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import changed_tensors, digests
from command_line import chip, chip_here
from edits import run_edit

from chip.models.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]


def everything_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture
def workplace(tmp_path: Path, llava_directory: Path, hospital_data: Path) -> Path:
    """A directory with `model` and `data` in it."""
    shutil.copytree(llava_directory, tmp_path / "model")
    shutil.copytree(hospital_data, tmp_path / "data")
    return tmp_path


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], ["edit", "--help"], ["concepts", "--help"], ["--version"]])
    def test_it_comes_before_torch(self, arguments: list[str]) -> None:
        code = (
            "import sys\nfrom chip.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
            "    heavy = {'torch', 'transformers'} & set(sys.modules)\n"
            "    sys.exit(f'imported {heavy}' if heavy else end.code)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_the_checkout_runs_it_too(self) -> None:
        command = [sys.executable, str(ROOT / "cli.py"), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == chip("--version").stdout
        assert done.stdout.startswith("chip ")

    @pytest.mark.parametrize("arguments", [["nonesuch"], ["edit"], ["edit", "model", "--nonesuch"], ["edit", "model"]])
    def test_wrong_usage_exits_with_2(self, arguments: list[str]) -> None:
        assert chip_here(*arguments).exit_code == 2


class TestEdit:
    def test_from_records_to_checkpoint(self, workplace: Path) -> None:
        """The whole way as a user goes it: collect once, look first, edit, edit again, audit."""
        held = digests(workplace / "model")
        before = everything_below(workplace)
        dry = chip("edit", "model", "--data", "data", "--forget", "patient_1", "--dry-run", cwd=workplace)
        assert dry.returncode == 0, dry.stderr
        assert everything_below(workplace) == before
        assert "patient_1" in dry.stdout
        assert "nothing is written (dry run)" in dry.stdout

        done = chip("collect", "model", "--data", "data", "--out", "kept.safetensors", cwd=workplace)
        assert done.returncode == 0, done.stderr
        arguments = ["edit", "model", "--data", "data", "--forget", "patient_1", "--statistics", "kept.safetensors"]
        done = chip(*arguments, "--json", cwd=workplace)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["plan"]["statistics"] == "kept.safetensors (found)"
        assert result["out"] == "model-forgotten"
        assert {row["group"] for row in result["rows"]} >= {"target", "siblings", "rest"}
        assert "Traceback" not in done.stderr
        out = workplace / "model-forgotten"
        assert changed_tensors(workplace / "model", out)
        assert digests(workplace / "model") == held

        again = chip(*arguments, "--out", "again", "--no-verify", cwd=workplace)
        assert again.returncode == 0, again.stderr
        assert digests(workplace / "again") == digests(out)
        asking = ("audit", "model", "again", "--data", "data", "--forget", "patient_1", "--attacks", "none", "--json")
        audited = chip(*asking, cwd=workplace)
        assert audited.returncode == 0, audited.stderr
        assert json.loads(audited.stdout)["rows"] == result["rows"]

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"--forget": "patient_99"}, "patient_99"),
            ({"--data": "nowhere"}, "nowhere"),
            ({"--out": "data"}, "data exists already"),
        ],
    )
    def test_errors_are_one_line_and_nothing_is_written(
        self, workplace: Path, changed: dict[str, str], message: str
    ) -> None:
        before = everything_below(workplace)
        given = {"--data": "data", "--forget": "patient_1", "--out": "out", **changed}
        done = chip("edit", "model", *(part for pair in given.items() for part in pair), cwd=workplace)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("chip: ")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
        assert everything_below(workplace) == before

    def test_an_error_while_running_is_one_line_too_and_leaves_nothing_behind(self, workplace: Path) -> None:
        (workplace / "data/images/study_2_0.png").write_bytes(b"not an image")
        before = everything_below(workplace)
        done = chip("edit", "model", "--data", "data", "--forget", "patient_1", "--no-verify", cwd=workplace)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("chip: ")]
        assert "record on line" in said
        assert "cannot be read as an image" in said
        assert everything_below(workplace) == before

    @pytest.mark.parametrize("flag", ["--strength", "--top-k", "--alpha", "--batch-size"])
    def test_a_setting_outside_its_limits_is_said_before_anything_is_loaded(self, workplace: Path, flag: str) -> None:
        result = chip_here(
            "edit", workplace / "absent", "--data", workplace / "data", "--forget", "patient_1", flag, "-1"
        )
        assert flag in str(result.exception)

    def test_flags_that_do_not_bear_on_the_method_are_said(self, workplace: Path) -> None:
        common = ("edit", workplace / "model", "--data", workplace / "data", "--forget", "patient_1", "--dry-run")
        said = chip_here(*common, "--top-k", "20", "--sites", "vision", "--ridge", "0.02").stdout
        assert "--top-k has no effect" in said
        assert "--sites has no effect" in said
        assert "--ridge has no effect" not in said

    def test_files_of_others_are_never_replaced(self, workplace: Path) -> None:
        records = workplace / "data/records.jsonl"
        before = records.read_bytes()
        collected = chip_here("collect", workplace / "model", "--data", workplace / "data", "--out", records)
        common = ("edit", workplace / "model", "--data", workplace / "data", "--forget", "patient_1")
        edited = chip_here(*common, "--out", workplace / "out", "--receipt", records)
        assert all("chip did not write it" in str(result.exception) for result in (collected, edited))
        assert records.read_bytes() == before

    @pytest.mark.parametrize("method", ["counterpart", "oblique", "chip"])
    def test_json_is_one_object_on_stdout(self, workplace: Path, method: str) -> None:
        result = chip_here(
            *("edit", workplace / "model", "--data", workplace / "data", "--forget", "patient_1"),
            *("--method", method, "--no-verify", "--json", "--device", "cpu"),
        )
        assert result.exit_code == 0, result.exception
        found = json.loads(result.stdout)
        assert set(found) >= {"plan", "sites", "rows", "out", "receipt"}
        assert found["plan"]["method"] == method


class TestInspect:
    def test_a_model_and_its_data(self, workplace: Path) -> None:
        done = chip("inspect", "model", "--data", "data", "--json", cwd=workplace)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        assert seen["model"]["family"] == "llava"
        assert seen["model"]["layers"] == 3
        assert len(seen["model"]["sites"]) == 18
        counts = {"/".join(node["path"]): node["records"] for node in seen["nodes"]}
        assert counts["inst_0"] == 17
        assert counts["inst_0/patient_1/study_1_0"] == 3

    def test_nodes_are_plain_text_whatever_they_are_called(self, tmp_path: Path, llava_directory: Path) -> None:
        record: dict[str, Any] = {"path": ["[bold]inst[red]"], "question": "q", "answer": "a"}
        (tmp_path / "records.jsonl").write_text(json.dumps(record) + "\n")
        result = chip_here("inspect", llava_directory, "--data", tmp_path)
        assert result.exit_code == 0, result.exception
        assert "[bold]inst[red]" in result.stdout


class TestBatchSize:
    """DESIGN section 6: relative 1e-4 of the change in float32; single ulps in under 1 % of the entries in bf16."""

    def edited(self, model: Path, data: Path, out: Path, batch_size: int, method: str) -> dict[str, np.ndarray]:
        done = run_edit(model, data, out / str(batch_size), "patient_1", batch_size=batch_size, method=method)
        tensors = Checkpoint(done.out).tensors
        return {name: tensors[name].read() for name in sorted(done.planned)}

    @pytest.mark.parametrize("method", ["counterpart", "oblique", "chip"])
    def test_in_float32(self, tmp_path: Path, llava_directory: Path, hospital_data: Path, method: str) -> None:
        before = Checkpoint(llava_directory).tensors
        one, four, many = (self.edited(llava_directory, hospital_data, tmp_path, n, method) for n in (1, 4, 32))
        for name, expected in one.items():
            change = np.linalg.norm(expected.astype(np.float64) - before[name].read())
            for other in (four[name], many[name]):
                assert np.linalg.norm(other.astype(np.float64) - expected) <= 1e-4 * change

    @pytest.mark.parametrize("method", ["counterpart", "oblique", "chip"])
    def test_in_bfloat16(self, tmp_path: Path, hospital_data: Path, method: str) -> None:
        model = tiny_models.llava(tmp_path / "model", dtype=torch.bfloat16)
        before = Checkpoint(model).tensors
        one, four, many = (self.edited(model, hospital_data, tmp_path, n, method) for n in (1, 4, 32))
        for other in (four, many):
            steps = np.concatenate([ulps(before[name].read(), one[name], other[name]).ravel() for name in one])
            assert steps.max() <= 1
            assert (steps > 0).mean() < 0.01


def ulps(before: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How far two edited arrays lie apart, in units of the last place of each entry.

    The unit is that of the larger of the entry before and after: where a change all but cancels an entry, what is left
    is a difference of numbers of the old size, and cannot be more exact than they are.
    """
    assert first.dtype == second.dtype == np.dtype(ml_dtypes.bfloat16)
    before, first, second = (values.astype(np.float64) for values in (before, first, second))
    size = np.maximum(np.maximum(np.abs(before), np.abs(first)), np.finfo(np.float32).tiny)
    unit = 2.0 ** (np.floor(np.log2(size)) - ml_dtypes.finfo(ml_dtypes.bfloat16).nmant)
    return np.abs(first - second) / unit


class TestShells:
    def completed(self, *words: str) -> list[str]:
        """What a shell is told that the last word may become."""
        asked = {
            "_CHIP_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(("chip", *words)),
            "COMP_CWORD": f"{len(words)}",
        }
        script = Path(sys.executable).with_name("chip")
        done = subprocess.run([script], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
        return done.stdout.split()

    def test_verbs_flags_and_values_are_completed(self) -> None:
        assert self.completed("ins") == ["inspect"]
        assert self.completed("edit", "--meth") == ["--method"]
        assert self.completed("edit", "--method", "c") == ["counterpart", "chip"]

    def test_a_listing_that_nobody_reads_on_ends_quietly(self, llava_directory: Path) -> None:
        reader = f"{sys.executable} -m chip inspect {llava_directory} | head -n 1"
        done = subprocess.run(["bash", "-c", reader], capture_output=True, text=True, check=False)
        assert done.stdout.startswith(str(llava_directory))
        assert not done.stderr
