"""Every example runs as its first lines say, on a tiny model, and leaves what it promises."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_files import changed_tensors
from tiny_records import write_image

import chip

EXAMPLES = Path(__file__).parents[1] / "examples"
OTHERS = {"ask.py", "picture.py"}
"""What `make demo` and the README's picture run."""

Run = Callable[..., str]


@pytest.fixture
def here(llava_directory: Path, hospital_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, its records and an edit, as the examples want them."""
    shutil.copytree(llava_directory, tmp_path / "model")
    (tmp_path / "records").symlink_to(hospital_data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an example in that directory as a script of its own; gives what it printed."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr("sys.argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def quick_edit(out: str) -> chip.Edit:
    settings = {"method": "oblique", "layers": "1", "device": "cpu", "verify": False}
    return chip.edit("model", "records", ["patient_1"], out=out, **settings)  # type: ignore[arg-type]


def test_forget(here: Path, run: Run) -> None:
    assert "target" in run("forget.py", "model", "records", "patient_1")
    assert (here / "model-forgotten.receipt.json").is_file()
    chip.Edit.load(here / "model.edit.safetensors").write("model", "again")
    assert not changed_tensors(here / "model-forgotten", here / "again")


def test_own_records(here: Path, run: Run) -> None:
    for patient in range(4):
        for study in range(2):
            write_image(here / f"images/p{patient}_s{study}.png", 10 * patient + study)
    table = run("own_records.py", "model", "images", "out").splitlines()
    assert next(line.split()[1] for line in table if line.startswith("target")) == "10"


def test_loaded_model(here: Path, run: Run) -> None:
    assert "target" in run("loaded_model.py", "model", "records", "patient_1", "out")
    assert changed_tensors(here / "model", here / "out")


def test_many_requests(here: Path, run: Run) -> None:
    assert run("many_requests.py", "model", "records", "patient_1", "study_2_0").startswith("statistics of ")
    assert changed_tensors(here / "model-without-patient_1", here / "model-without-study_2_0")


def test_next_epoch(here: Path, run: Run) -> None:
    quick_edit("out").save("edit.safetensors")
    assert "receipt" in run("next_epoch.py", "edit.safetensors", "model", "next")
    assert not changed_tensors(here / "out", here / "next")


def test_adapter(here: Path, run: Run) -> None:
    pytest.importorskip("peft")
    quick_edit("out").save("edit.safetensors")
    assert "factors on model" in run("adapter.py", "model", "edit.safetensors", "adapter")
    assert json.loads((here / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "model"


def test_gate(here: Path, run: Run) -> None:
    quick_edit("model-forgotten")
    assert "rephrasing" in run("gate.py", "model", "model-forgotten", "records", "patient_1", "report", "rephrasing")
    assert (here / "report/report.html").is_file()


def test_every_example_is_run() -> None:
    run = {name.removeprefix("test_") + ".py" for name in globals() if name.startswith("test_")}
    assert {path.name for path in EXAMPLES.glob("*.py")} - OTHERS <= run
