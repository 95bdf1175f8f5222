"""The benchmark from end to end, as a user runs it: an export built, checked, planted in a small model, and every level
forgotten, beside a model that never saw the patient."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chip.hospital.learning import Course
from mimic import write_mimic

from chip.records import read_records

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from memorised import Lesson, untrained

LEVELS = ("institution", "patient", "study", "section")
PLANTING = ("--train", "full", "--epochs", 18, "--learning-rate", 1e-3, "--batch-size", 16, "--accumulate", 1)
"""Every parameter of a model of 1.4 million, from random weights: LoRA beside those would learn nothing."""

# One process has all of them: they share what takes minutes to build.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("medforget")]


def done(*arguments: Any, processes: int = 1) -> str:
    """What a command that came to its end said; of several processes, as torchrun launches them."""
    several = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "chip")
    command = several if processes > 1 else ("-m", "chip")
    ran = subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the commands leave, from an export of nine patients."""
    place = tmp_path_factory.mktemp("medforget")
    write_mimic(place / "export", patients=9, studies=3, dicom=2)
    sizes = ("--institutions", 3, "--max-pictures", 1, "--image-size", 112)
    done("medforget", "build", place / "export", "--out", place / "data", *sizes)
    untrained(place / "base", place / "data", Lesson(1000, Course()))
    planting = ("medforget", "finetune", place / "base", place / "data", *PLANTING)
    trained = (("--out", place / "model"), ("--out", place / "gold" / "patient", "--without-set", "patient"))
    with ThreadPoolExecutor() as both:
        list(both.map(lambda flags: done(*planting, *flags), trained))
    done(*running(place), "--methods", "counterpart --no-tune,chip --no-tune", processes=2)
    return place


def running(place: Path) -> tuple[Any, ...]:
    """`chip medforget run`, with little asked."""
    asked = ("--verify-records", 60, "--attacks", "rephrasing", "--attacks", "reconstruction")
    where = ("--out", place / "results", "--gold", place / "gold")
    return ("medforget", "run", place / "model", place / "data", *where, *asked)


@pytest.fixture(scope="module")
def contests(place: Path) -> dict[str, dict[str, Any]]:
    """Rows by level."""
    results = json.loads((place / "results" / "results.json").read_text())
    return {one["level"]: one["rows"] for one in results["contests"]}


def test_every_level_has_a_row_for_every_method_and_gold_where_it_was_trained(
    contests: dict[str, dict[str, Any]],
) -> None:
    assert tuple(contests) == LEVELS
    methods = {"counterpart --no-tune", "chip --no-tune"}
    for level, rows in contests.items():
        assert rows.keys() == methods | {"before"} | ({"retrained"} if level == "patient" else set())
        assert all(not one.get("problem") for one in rows.values())


def test_the_model_knew_the_data_in_words_that_it_was_not_taught(contests: dict[str, dict[str, Any]]) -> None:
    for rows in contests.values():
        assert rows["before"]["groups"]["target"]["match"] > 0.5
        assert rows["before"]["groups"]["rest"]["match"] > 0.5


def test_the_retrained_model_does_not_know_the_patient(contests: dict[str, dict[str, Any]]) -> None:
    patient = contests["patient"]
    assert patient["retrained"]["groups"]["target"]["match"] < 0.5 * patient["before"]["groups"]["target"]["match"]
    assert patient["retrained"]["groups"]["rest"]["match"] > 0.5


def test_an_edit_leaves_less_of_the_target(contests: dict[str, dict[str, Any]]) -> None:
    for rows in contests.values():
        before, after = (rows[name]["groups"]["target"]["loss"] for name in ("before", "counterpart --no-tune"))
        assert after > before


def test_scores_are_there_as_published(contests: dict[str, dict[str, Any]]) -> None:
    for rows in contests.values():
        for one in rows.values():
            assert set(one["scores"]) >= {"forget", "rephrased", "retain"}
            assert 0 <= one["scores"]["retain"]["generation"]["rouge_l"] <= 1
            assert 0 <= one["scores"]["retain"]["cloze"]["accuracy"] <= 1


def test_a_place_is_told_level_by_level(contests: dict[str, dict[str, Any]]) -> None:
    for rows in contests.values():
        curve = rows["chip --no-tune"]["curves"]["reconstruction"]["with its place, level by level"]
        assert [level for level, _ in curve] == list(range(len(curve)))


def test_what_was_written_names_nobody_and_is_looked_at(place: Path) -> None:
    page = (place / "results" / "results.md").read_text()
    names = {name for node in read_records(place / "data").nodes for name in node if not name.isupper()}
    assert not [name for name in names if name in page]
    assert (place / "results" / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_measures_nothing(place: Path) -> None:
    outcomes = place / "results" / "outcomes"
    before = {path: path.stat().st_mtime_ns for path in outcomes.iterdir()}
    page = (place / "results" / "results.md").read_text()
    done(*running(place), "--methods", "chip --no-tune", "--level", "study")
    assert {path: path.stat().st_mtime_ns for path in outcomes.iterdir()} == before
    assert (place / "results" / "results.md").read_text() == page
