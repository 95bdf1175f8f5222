"""Defaults: a flag wins over the environment, that over chip.toml, and that over what chip itself would choose."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_line import chip_here
from mimic import write_mimic

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
        (["[edti]", "top-k = 3"], r"no verb is called 'edti'.* did you mean \[edit\]\?"),
        (["no-tune = true"], "write `tune = false`"),
        (["[edit]", "no_verify = false"], "write `verify = true`"),
        (["data = 5"], r"chip\.toml: data is a path, in quotes; it is 5"),
        (["[edit]", "images-from = ['a', 5]"], "no flag is called 'images-from'"),
        (["forgotten = ['a', 5]"], "forgotten is a path, in quotes; it is 5"),
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


@pytest.mark.parametrize("kind", ["directory", "pipe", "device"])
def test_what_is_no_file_is_refused_and_not_waited_for(workplace: Path, llava_directory: Path, kind: str) -> None:
    path = workplace / "chip.toml"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ChipError, match=r"chip\.toml is no regular file"):
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


class TestVerbsOfAGroup:
    def built(self, workplace: Path, *arguments: Any) -> dict[str, Any]:
        """The settings by which a benchmark was built."""
        if not (workplace / "export").exists():
            write_mimic(workplace / "export", patients=4, studies=2, dicom=0)
        done = chip_here("medforget", "build", "export", "--out", "built", "--force", *arguments)
        assert done.exit_code == 0, done.exception
        settings: dict[str, Any] = json.loads((workplace / "built" / "manifest.json").read_text())["settings"]
        return settings

    def test_the_nearest_table_wins_and_a_flag_over_it(self, workplace: Path) -> None:
        write(
            workplace,
            *("seed = 1", "patients = 2", "min-studies = 1", "top-k = 5"),
            *("[medforget]", "patients = 3", "options = 3"),
            *("[medforget.build]", "options = 5", "image_size = 32"),
            *("[medforget.split]", "seed = 9"),
        )
        found = self.built(workplace, "--max-studies", 3)
        assert (found["seed"], found["patients"], found["fewest"]) == (1, 3, 1)
        assert (found["options"], found["side"], found["most"]) == (5, 32, 3)

    def test_an_argument_and_paths_may_stand_in_the_file(self, workplace: Path, tmp_path: Path) -> None:
        write_mimic(tmp_path / "kept" / "export", patients=4, studies=2, dicom=0)
        config = write(tmp_path / "kept", "[medforget.build]", 'export = "export"', 'out = "built"', "patients = 3")
        done = chip_here("--config", config, "medforget", "build")
        assert done.exit_code == 0, done.exception
        assert (tmp_path / "kept" / "built" / "manifest.json").is_file()

    def test_a_flag_is_meant_by_its_long_name(
        self, workplace: Path, hospital_data: Path, llava_directory: Path
    ) -> None:
        write(workplace, "[medforget.run]", 'set = "no-such-set"')
        (workplace / "records").symlink_to(hospital_data)
        assert chip_here("medforget", "split", "records", "--out", "splits.json", "--min-siblings", 0).exit_code == 0
        done = chip_here(
            *("medforget", "run", llava_directory, "records", "--out", "results", "--splits", "splits.json")
        )
        assert "no-such-set" in str(done.exception)

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["patents = 3"], r"'patents'; `chip VERB --help`"),
            (["[edit]", "patients = 3"], r"'patients'; `chip edit --help`"),
            (["[medforget]", "top-k = 3"], r"'top-k'; `chip medforget VERB --help`"),
            (["[medforget.build]", "method = 'chip'"], r"'method'; `chip medforget build --help`"),
            (["[medforget.bulid]", "patients = 3"], r"no verb is called 'bulid'.*did you mean \[medforget\.build\]"),
            (["medforget = 3"], r"\[medforget\] must be a table"),
            (["[medforget]", "build = 3"], r"\[medforget\.build\] must be a table"),
        ],
    )
    def test_what_no_flag_is_called_is_refused_with_the_command_that_lists_them(
        self, workplace: Path, llava_directory: Path, lines: list[str], message: str
    ) -> None:
        write(workplace, *lines)
        with pytest.raises(ChipError, match=message):
            planned(llava_directory)
