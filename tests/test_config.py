"""Defaults: a flag wins over the environment, that over chip.toml, and that over what chip itself would choose."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import chip_here

from chip.errors import ChipError


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def planned(model: Path, *arguments: Any, **environment: str) -> dict[str, Any]:
    """The plan of a dry run."""
    result = chip_here(*arguments, "edit", model, "--dry-run", "--json", "--device", "cpu", **environment)
    if result.exception is not None:
        raise result.exception
    plan: dict[str, Any] = json.loads(result.stdout)["plan"]
    return plan


def test_one_node_may_stand_without_brackets(workplace: Path, llava_directory: Path, hospital_data: Path) -> None:
    write(workplace, f"data = {str(hospital_data)!r}", 'forget = "patient_1"', 'method = "chip"')
    assert planned(llava_directory)["targets"] == ["inst_0/patient_1"]


def write(directory: Path, *lines: str) -> Path:
    path = directory / "chip.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def common(data: Path) -> tuple[str, ...]:
    return (f"data = {str(data)!r}", 'forget = ["patient_1"]', 'method = "chip"')


@pytest.mark.parametrize(
    ("in_file", "in_environment", "as_flag", "expected"),
    [
        (None, None, None, 10.0),
        (20.0, None, None, 20.0),
        (20.0, "30", None, 30.0),
        (20.0, "30", "40", 40.0),
        (None, "30", None, 30.0),
        (20.0, None, "40", 40.0),
    ],
)
def test_flag_over_environment_over_file_over_default(
    workplace: Path,
    llava_directory: Path,
    hospital_data: Path,
    in_file: float | None,
    in_environment: str | None,
    as_flag: str | None,
    expected: float,
) -> None:
    write(workplace, *common(hospital_data), *([f"top-k = {in_file}"] if in_file else []))
    result = chip_here(
        *("edit", llava_directory, "--dry-run", "--json", "--device", "cpu"),
        *(["--top-k", as_flag] if as_flag else []),
        **({"CHIP_TOP_K": in_environment} if in_environment else {}),
    )
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["plan"]["settings"]["top_k"] == expected


def test_a_table_for_one_verb_wins_over_the_common_keys(
    workplace: Path, llava_directory: Path, hospital_data: Path
) -> None:
    write(workplace, *common(hospital_data), "top_k = 20", "[edit]", "top_k = 30", "[collect]", "alpha = 0.9")
    plan = planned(llava_directory)
    assert plan["settings"]["top_k"] == 30
    assert plan["settings"]["alpha"] == 0.3


def test_paths_are_relative_to_the_file(
    workplace: Path, llava_directory: Path, hospital_data: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "records").symlink_to(hospital_data)
    path = write(elsewhere, 'data = "records"', 'forget = ["patient_1"]', 'statistics = "kept.safetensors"')
    plan = planned(llava_directory, "--config", path)
    assert Path(plan["data"]) == elsewhere / "records"
    assert plan["statistics"].startswith(str(elsewhere / "kept.safetensors"))
    assert planned(llava_directory, CHIP_CONFIG=str(path)) == plan


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["top-q = 3"], "no flag is called 'top-q'"),
        (["[edit]", "forgets = 3"], "no flag is called 'forgets'"),
        (["[edti]", "top-k = 3"], "no flag is called 'edti'"),
        (["edit = 3"], r"\[edit\] must be a table"),
        (["top-k = "], "cannot be read as TOML"),
        (["\x00"], "cannot be read as TOML"),
    ],
)
def test_what_no_flag_is_called_is_refused(
    workplace: Path, llava_directory: Path, lines: list[str], message: str
) -> None:
    write(workplace, *lines)
    with pytest.raises(ChipError, match=message):
        planned(llava_directory)


def test_a_file_that_was_named_must_be_there(workplace: Path, llava_directory: Path) -> None:
    with pytest.raises(ChipError, match="cannot be read as TOML"):
        planned(llava_directory, "--config", workplace / "absent.toml")


def test_a_value_of_another_type_is_wrong_usage(workplace: Path, llava_directory: Path, hospital_data: Path) -> None:
    write(workplace, *common(hospital_data), 'top-k = "many"')
    result = chip_here("edit", llava_directory, "--dry-run")
    assert result.exit_code == 2
    assert "--top-k" in result.stderr


def test_nodes_to_forget_may_stand_in_the_environment(
    workplace: Path, llava_directory: Path, hospital_data: Path
) -> None:
    write(workplace, f"data = {str(hospital_data)!r}", 'method = "chip"')
    plan = planned(llava_directory, CHIP_FORGET="patient_1 patient_2")
    assert plan["targets"] == ["inst_0/patient_1", "inst_1/patient_2"]
