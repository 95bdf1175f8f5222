"""Several processes that collect together leave what one would; when one is lost, the others say so and end."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import mode
from collecting import assert_near, write_ward
from processes import Running, free_port, start, start_team, until

from chip.collect import Moments, Sketch, Statistics, gathering, team
from chip.collect.file import load_statistics
from chip.settings import CollectSettings
from chip.workflow import CollectRequest, carry_out_collection, prepare_collection

IMAGES = 24
SOME = 0.0018
"""GiB for second moments that the wide model's do not fit in."""


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ward(tmp_path_factory.mktemp("ward") / "records", IMAGES)


@pytest.fixture(scope="module")
def alone(llava_directory: Path, ward: Path, tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    """What one process collects."""
    return collected(llava_directory, ward, tmp_path_factory.mktemp("alone") / "kept")


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is kept often; processes that are forked from this one do as it does."""
    monkeypatch.setattr(gathering, "WINDOW", 2)


def collected(model: Path, data: Path, out: Path, **settings: Any) -> Statistics:
    asked = CollectRequest(str(model), data, out, CollectSettings(workers=0, **settings), device="cpu")
    return carry_out_collection(prepare_collection(asked))


def arguments(model: Path, data: Path, out: Path, *more: Any) -> tuple[Any, ...]:
    return ("collect", model, "--data", data, "--out", out, "--workers", 0, *more)


def launched(*launcher: str, arguments: tuple[Any, ...]) -> subprocess.CompletedProcess[str]:
    """`chip` under a launcher of several processes."""
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "chip", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def ended(processes: list[Running]) -> list[tuple[int, str]]:
    return [one.wait() for one in processes]


def assert_one_sentence(said: str, sentence: str) -> None:
    """That, and what was announced before it; no traceback."""
    lines = [line for line in said.splitlines() if not line.startswith(("collecting statistics", "note: "))]
    errors = [line for line in lines if " records to collect" not in line]
    assert len(errors) == 1, said
    assert errors[0].startswith("chip: ")
    assert sentence in errors[0]


def assert_within_error(found: Statistics, exact: Statistics) -> int:
    """Every sketch is as near to the exact moment as it says; returns how many there are."""
    count = 0
    for mine, theirs in ((found.answer, exact.answer), (found.image, exact.image)):
        for name, one in mine.items():
            expected = theirs[name]
            assert isinstance(expected, Moments)
            assert one.count == expected.count
            torch.testing.assert_close(one.total, expected.total, rtol=1e-5, atol=1e-5)
            if isinstance(one, Sketch):
                count += 1
                rows, level = one.completed
                missing = expected.outer - rows.T @ rows - level * torch.eye(rows.shape[1])
                rounding = 1e-6 * float(expected.outer.trace())
                assert float(torch.linalg.matrix_norm(missing, 2)) <= one.error + rounding
                assert one.energy == pytest.approx(float(expected.outer.trace()), rel=1e-5)
    return count


class TestLaunchers:
    def test_torchrun(self, llava_directory: Path, ward: Path, alone: Statistics, tmp_path: Path) -> None:
        out = tmp_path / "kept.safetensors"
        launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        done = launched(*launcher, arguments=arguments(llava_directory, ward, out))
        assert done.returncode == 0, done.stderr
        assert_near(load_statistics(out)[0], alone, 1e-6)
        assert mode(out) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == [out.name]
        assert done.stdout.count("written: ") == 1

    def test_accelerate_with_sketches(self, wide: Path, ward: Path, tmp_path: Path) -> None:
        out = tmp_path / "kept.safetensors"
        launcher = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
        port = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port()))
        asked = arguments(wide, ward, out, "--statistics-memory", SOME)
        done = launched(*launcher, *port, arguments=asked)
        assert done.returncode == 0, done.stderr
        exact = collected(wide, ward, tmp_path / "exact")
        assert assert_within_error(load_statistics(out)[0], exact)
        assert done.stdout.count("written: ") == 1


class TestTogether:
    @pytest.mark.parametrize("size", [3])
    def test_any_number_leave_what_one_does(
        self, llava_directory: Path, ward: Path, alone: Statistics, tmp_path: Path, size: int
    ) -> None:
        out = tmp_path / "kept.safetensors"
        said = ended(start_team(tmp_path / "said", size, *arguments(llava_directory, ward, out)))
        assert [code for code, _ in said] == [0] * size
        assert "".join(text for _, text in said[1:]) == ""
        assert_near(load_statistics(out)[0], alone, 1e-6)

    def test_more_processes_than_groups(self, llava_directory: Path, tmp_path: Path) -> None:
        data = write_ward(tmp_path / "data", 1)
        said = ended(start_team(tmp_path / "said", 4, *arguments(llava_directory, data, tmp_path / "kept")))
        assert [code for code, _ in said] == [0] * 4
        expected = collected(llava_directory, data, tmp_path / "alone")
        assert_near(load_statistics(tmp_path / "kept")[0], expected, 1e-6)

    def test_new_records_are_added_together(self, llava_directory: Path, tmp_path: Path) -> None:
        data, out = tmp_path / "data", tmp_path / "kept"
        collected(llava_directory, write_ward(data, 5), out)
        write_ward(data, 12, questions=4)
        said = ended(start_team(tmp_path / "said", 2, *arguments(llava_directory, data, out)))
        assert [code for code, _ in said] == [0, 0]
        assert "40 of them collected now" in said[0][1]
        assert_near(load_statistics(out)[0], collected(llava_directory, data, tmp_path / "alone"), 1e-6)

    def test_the_one_with_the_least_memory_decides_how_large_sketches_are(
        self, wide: Path, ward: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "kept"
        most = arguments(wide, ward, out, "--statistics-memory", 1.5 * SOME)
        less = arguments(wide, ward, out, "--statistics-memory", SOME)
        said = ended(start_team(tmp_path / "said", 3, *most, rank_1=less, rank_2=arguments(wide, ward, out)))
        assert [code for code, _ in said] == [0, 0, 0], said
        found, _ = load_statistics(out)
        planned = collected(wide, ward, tmp_path / "alone", statistics_memory=SOME)
        rows = [{n: len(m.rows) for n, m in one.answer.items() if isinstance(m, Sketch)} for one in (found, planned)]
        assert rows[0] == rows[1]
        assert assert_within_error(found, collected(wide, ward, tmp_path / "exact"))


class TestLost:
    @pytest.mark.parametrize("lost", [0, 2])
    @pytest.mark.usefixtures("small_windows")
    def test_the_others_say_so_and_write_nothing_and_it_goes_on_later(
        self, llava_directory: Path, ward: Path, alone: Statistics, tmp_path: Path, lost: int
    ) -> None:
        out = tmp_path / "kept"
        asked = arguments(llava_directory, ward, out, "--save-every", 0, "--batch-tokens", 100)
        processes = start_team(tmp_path / "said", 3, *asked)
        until((tmp_path / f".kept.partial-{lost}-of-3").exists, processes[lost])
        processes[lost].kill()
        for number, (code, said) in enumerate(ended(processes)):
            assert code == (-9 if number == lost else 1)
            if number != lost:
                assert_one_sentence(said, "another process of this run ended before it was done")
        assert not out.exists()
        said = ended(start_team(tmp_path / "said", 3, *asked))
        assert [code for code, _ in said] == [0, 0, 0]
        assert "an interrupted collection goes on" in said[lost][1]
        assert_near(load_statistics(out)[0], alone, 1e-6)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "said-0", "said-1", "said-2"]

    def test_one_that_never_joins_is_not_waited_for_for_ever(
        self, llava_directory: Path, ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(team, "JOINING", timedelta(seconds=2))
        asked = arguments(llava_directory, ward, tmp_path / "kept")
        nowhere = arguments(llava_directory, tmp_path / "nowhere", tmp_path / "kept")
        said = ended(start_team(tmp_path / "said", 2, *asked, rank_1=nowhere))
        assert [code for code, _ in said] == [1, 1]
        assert_one_sentence(said[0][1], "the 2 processes of this run could not join")
        assert not (tmp_path / "kept").exists()

    def test_a_fault_of_one_is_said_by_that_one(self, llava_directory: Path, tmp_path: Path) -> None:
        data = write_ward(tmp_path / "data", 8)
        (data / "images/5.png").write_bytes(b"no image")
        said = ended(start_team(tmp_path / "said", 3, *arguments(llava_directory, data, tmp_path / "kept")))
        assert [code for code, _ in said] == [1, 1, 1]
        texts = sorted((text for _, text in said), key=lambda text: "cannot be read" not in text)
        assert_one_sentence(texts[0], "record on line 21: ")
        for text in texts[1:]:
            assert_one_sentence(text, "another process of this run ended")
        assert not (tmp_path / "kept").exists()
        assert not list(tmp_path.glob(".*"))


class TestAlike:
    @pytest.fixture
    def odd(self, tmp_path: Path, llava_directory: Path, ward: Path) -> dict[str, tuple[Any, ...]]:
        """Arguments that differ from the others' in one thing."""
        out = tmp_path / "kept"
        return {
            "data": arguments(llava_directory, write_ward(tmp_path / "data", 2), out),
            "sites": arguments(llava_directory, ward, out, "--sites", "language"),
            "alpha": arguments(llava_directory, ward, out, "--alpha", 0.5),
            "dtype": arguments(llava_directory, ward, out, "--dtype", "bfloat16"),
        }

    @pytest.mark.parametrize("what", ["data", "sites", "alpha", "dtype"])
    def test_processes_that_were_given_something_else_refuse(
        self, llava_directory: Path, ward: Path, tmp_path: Path, odd: dict[str, tuple[Any, ...]], what: str
    ) -> None:
        asked = arguments(llava_directory, ward, tmp_path / "kept")
        for code, text in ended(start_team(tmp_path / "said", 2, *asked, rank_1=odd[what])):
            assert code == 1
            assert_one_sentence(text, "process 1 was given another model, data or settings than process 0")
        assert not (tmp_path / "kept").exists()

    def test_an_edit_is_for_one_process(self, llava_directory: Path, ward: Path, tmp_path: Path) -> None:
        asked = ("edit", llava_directory, "--data", ward, "--forget", "patient_1", "--out", tmp_path / "out")
        for rank in ("0", "1"):
            code, text = start(tmp_path / "said", *asked, RANK=rank, WORLD_SIZE="2").wait()
            assert code == 2
            assert_one_sentence(text, "chip edit runs as one process")

    def test_without_a_place_to_meet_it_is_said(self, llava_directory: Path, ward: Path, tmp_path: Path) -> None:
        asked = arguments(llava_directory, ward, tmp_path / "kept")
        code, text = start(tmp_path / "said", *asked, RANK="0", WORLD_SIZE="2").wait()
        assert code == 1
        assert_one_sentence(text, "MASTER_ADDR expected, but not set); start them with torchrun or `accelerate launch`")
