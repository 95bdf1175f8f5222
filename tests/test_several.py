"""`chip edit` of several checkpoints: each as if it were alone, and one report that says what became of all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_files import digests
from command_line import chip_here

from chip.errors import UsageError
from chip.workflow import EditRequest
from chip.workflow.several import requests_for

ASKED = ("--forget", "patient_1", "--method", "oblique", "--layers", "1", "--device", "cpu", "--no-verify")


@pytest.fixture
def epochs(tmp_path: Path, llava_directory: Path) -> Path:
    """A folder of three checkpoints, the second of which lacks its weights."""
    for number in (2, 10, 1):
        shutil.copytree(llava_directory, tmp_path / f"epochs/checkpoint-{number}")
    (tmp_path / "epochs/checkpoint-2/model.safetensors").unlink()
    return tmp_path / "epochs"


def test_each_is_edited_as_if_it_were_alone_and_one_that_fails_stops_no_other(
    epochs: Path, hospital_data: Path, tmp_path: Path
) -> None:
    done = chip_here("edit", epochs, "--data", hospital_data, *ASKED, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 1
    outcomes = json.loads(done.stdout)["outcomes"]
    assert [(one["name"], one["state"]) for one in outcomes] == [
        ("checkpoint-1", "done"),
        ("checkpoint-2", "failed"),
        ("checkpoint-10", "done"),
    ]
    assert "holds no .safetensors file" in outcomes[1]["reason"]
    alone = chip_here("edit", epochs / "checkpoint-10", "--data", hospital_data, *ASKED, "--out", tmp_path / "alone")
    assert alone.exit_code == 0
    for name in ("checkpoint-1", "checkpoint-10"):
        assert digests(tmp_path / "out" / name) == digests(tmp_path / "alone")
        assert (tmp_path / "out" / f"{name}.receipt.json").is_file()


def test_several_need_a_folder_for_their_outputs(epochs: Path) -> None:
    asked = EditRequest("", Path("records"), ("patient_1",))
    with pytest.raises(UsageError, match="need --out"):
        requests_for(asked, [str(epochs)])
    found = requests_for(replace(asked, in_place=True), [str(epochs)])
    assert [Path(one.model).name for one in found] == ["checkpoint-1", "checkpoint-2", "checkpoint-10"]
    with pytest.raises(UsageError, match="given twice"):
        requests_for(replace(asked, in_place=True), [str(epochs / "checkpoint-1"), str(epochs / "checkpoint-1")])


@pytest.mark.parametrize("name", ["receipt", "edit_out", "statistics", "plot"])
def test_a_flag_that_names_one_file_is_refused_with_several(epochs: Path, name: str) -> None:
    asked = EditRequest("", Path("records"), ("patient_1",), Path("out"), **{name: Path("file")})
    with pytest.raises(UsageError, match="names one file"):
        requests_for(asked, [str(epochs)])
    assert len(requests_for(asked, [str(epochs / "checkpoint-1")])) == 1
