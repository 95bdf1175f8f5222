"""An interrupted collection goes on where it stopped, and leaves the bytes that it would have left uninterrupted."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from checkpoint_files import mode
from collecting import calls, write_ward
from processes import start, until

from chip.collect import gathering, progress_file
from chip.errors import ChipError
from chip.settings import CollectSettings
from chip.workflow import CollectRequest, carry_out_collection, prepare_collection

IMAGES = 20
SKETCHED = {"statistics_memory": 0.0018}


class Stopped(Exception):
    """Stands for whatever ends a collection from without."""


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ward(tmp_path_factory.mktemp("ward") / "records", IMAGES)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is kept every few groups, however long it takes; processes forked from this one do as it does."""
    monkeypatch.setattr(gathering, "WINDOW", 4)
    monkeypatch.setattr(progress_file, "_SHARE", 0)


def asked(model: Path, data: Path, out: Path, **settings: Any) -> CollectRequest:
    standard = {"workers": 0, "save_every": 0.0, "batch_tokens": 300}
    return CollectRequest(str(model), data, out, CollectSettings(**{**standard, **settings}), device="cpu")


def arguments(request: CollectRequest) -> tuple[Any, ...]:
    """The same as the command line takes it."""
    settings = vars(request.settings)
    given = {name.replace("_", "-"): value for name, value in settings.items() if value is not None}
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    return ("collect", request.model, "--data", request.data, "--out", request.out, "--device", "cpu", *flags)


def whole(request: CollectRequest) -> bytes:
    """Collect without an interruption."""
    carry_out_collection(prepare_collection(request))
    return request.out.read_bytes()


def stop(request: CollectRequest, groups: int) -> None:
    """Collect, and be stopped once so many groups have been taken."""

    def track(items: Any, doing: str) -> Any:
        for number, one in enumerate(items):
            if number == groups:
                raise Stopped
            yield one

    with pytest.raises(Stopped):
        carry_out_collection(prepare_collection(request), track)


def partial_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


class TestKilled:
    """By SIGKILL, in mid-run, as nothing can be prepared for."""

    @pytest.mark.parametrize(
        "settings",
        [{}, {"workers": 2}, SKETCHED, {**SKETCHED, "workers": 2}],
        ids=["exact", "workers", "sketched", "both"],
    )
    def test_going_on_leaves_the_same_bytes(self, wide: Path, ward: Path, tmp_path: Path, settings: Any) -> None:
        expected = whole(asked(wide, ward, tmp_path / "whole", **settings))
        request = asked(wide, ward, tmp_path / "kept", **settings)
        partial, kills = partial_of(request.out), 0
        while not request.out.exists():
            running = start(tmp_path / "said", *arguments(request))
            before = partial.stat().st_mtime_ns if partial.exists() else 0
            while running.process.is_alive() and (not partial.exists() or partial.stat().st_mtime_ns == before):
                time.sleep(0.0005)
            if kills < 3:
                running.kill()
                kills += running.wait()[0] == -signal.SIGKILL
            code, said = running.wait()
            assert (code, mode(partial)) == (-signal.SIGKILL, 0o600) if code else not partial.exists()
        assert kills
        assert "an interrupted collection goes on: " in said
        assert request.out.read_bytes() == expected
        assert mode(request.out) == 0o600
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "said", "whole"]

    def test_from_the_checkout_what_was_there_before_survives(
        self, llava_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        data, out = tmp_path / "data", tmp_path / "kept"
        write_ward(data, 1, questions=1)
        before = whole(asked(llava_directory, data, out))
        shutil.copy(out, tmp_path / "whole")
        write_ward(data, 140, questions=1)
        expected = whole(asked(llava_directory, data, tmp_path / "whole"))
        again = asked(llava_directory, data, out)
        command = [sys.executable, Path(__file__).parents[1] / "cli.py", *map(str, arguments(again))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not partial_of(out).exists():
            assert running.poll() is None
            time.sleep(0.0005)
        running.kill()
        assert running.wait() == -signal.SIGKILL
        assert out.read_bytes() == before
        notices: list[str] = []
        carry_out_collection(prepare_collection(again), notice=notices.append)
        assert "an interrupted collection goes on" in notices[0]
        assert out.read_bytes() == expected

    def test_workers_do_not_outlive_it(self, llava_directory: Path, ward: Path, tmp_path: Path) -> None:
        """They hold more than fits into the pipe that nobody reads any more."""
        request = asked(llava_directory, ward, tmp_path / "kept", workers=2)
        running = start(tmp_path / "said", *arguments(request))
        until(partial_of(request.out).exists, running)
        workers = psutil.Process(running.process.pid).children()
        assert len(workers) == 2
        running.kill()
        assert running.wait()[0] == -signal.SIGKILL
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive


class TestStopped:
    @pytest.mark.parametrize("groups", [0, 3, 9, 20])
    def test_anywhere_the_bytes_are_the_same(
        self, llava_directory: Path, ward: Path, tmp_path: Path, groups: int
    ) -> None:
        expected = whole(asked(llava_directory, ward, tmp_path / "whole"))
        request, notices = asked(llava_directory, ward, tmp_path / "kept"), []
        stop(request, groups)
        assert partial_of(request.out).exists() == (groups >= 4)
        carry_out_collection(prepare_collection(request), notice=notices.append)
        assert request.out.read_bytes() == expected
        done = groups // 4 * 4
        assert [notice for notice in notices if f": {done} of " in notice] == notices
        assert len(notices) == (groups >= 4)

    def test_what_is_done_does_not_run_again(self, llava_directory: Path, ward: Path, tmp_path: Path) -> None:
        request = asked(llava_directory, ward, tmp_path / "kept")
        stop(request, IMAGES)
        prepared = prepare_collection(request)
        with calls(prepared.loaded.model.get_submodule("model.vision_tower")) as given:
            carry_out_collection(prepared, notice=lambda _: None)
        assert sum(map(len, given)) < IMAGES / 2

    @pytest.mark.parametrize(
        "change",
        [{"statistics_memory": 0.0021}, {"batch_tokens": 200}, {"max_records_per_node": 2}, "data", "alpha", "sites"],
        ids=str,
    )
    def test_progress_of_something_else_is_not_taken_up(
        self, wide: Path, ward: Path, tmp_path: Path, change: Any
    ) -> None:
        request = asked(wide, ward, tmp_path / "kept", **SKETCHED)
        stop(request, 9)
        other = {**vars(request)}
        if change == "data":
            other["data"] = write_ward(tmp_path / "data", IMAGES, questions=2)
        elif change == "alpha":
            other["alpha"] = 0.5
        elif change == "sites":
            other["sites"] = "language"
        else:
            other["settings"] = CollectSettings(**{**vars(request.settings), **change})
        notices: list[str] = []
        changed = CollectRequest(**other)
        carry_out_collection(prepare_collection(changed), notice=notices.append)
        assert notices == [f"{partial_of(request.out).name} holds the progress of another collection, which is dropped"]
        assert request.out.read_bytes() == whole(CollectRequest(**{**other, "out": tmp_path / "whole"}))
        assert not partial_of(request.out).exists()

    @pytest.mark.parametrize("damage", ["empty", "short", "shorter", "no safetensors", "other tensors"])
    def test_damaged_progress_is_one_sentence(
        self, llava_directory: Path, ward: Path, tmp_path: Path, damage: str
    ) -> None:
        request = asked(llava_directory, ward, tmp_path / "kept")
        stop(request, 9)
        partial = partial_of(request.out)
        content = partial.read_bytes()
        partial.write_bytes(
            {
                "empty": b"",
                "short": content[:-100],
                "shorter": content[:300],
                "no safetensors": b"no safetensors" * 99,
                "other tensors": content.replace(b"pooled/model", b"pooled/other"),
            }[damage]
        )
        with pytest.raises(ChipError, match=r"\.kept\.partial is damaged \(.*\); remove it to start afresh") as caught:
            carry_out_collection(prepare_collection(request))
        assert "\n" not in str(caught.value)
        partial.unlink()
        assert whole(request)

    def test_nothing_is_kept_where_there_is_no_time_for_it(
        self, llava_directory: Path, ward: Path, tmp_path: Path
    ) -> None:
        stop(asked(llava_directory, ward, tmp_path / "kept", save_every=60.0), 20)
        assert list(tmp_path.iterdir()) == []

    def test_halved_passes_stay_halved(self, llava_directory: Path, ward: Path, tmp_path: Path) -> None:
        """What was found out about memory before an interruption is not found out again."""
        request = asked(llava_directory, ward, tmp_path / "kept", batch_tokens=2048)
        notices: list[str] = []

        def refuse(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden = given[0] if given else named["hidden_states"]
            if hidden.shape[0] * hidden.shape[1] > 200:
                raise RuntimeError("DefaultCPUAllocator: not enough memory")

        def track(items: Any, doing: str) -> Any:
            for number, one in enumerate(items):
                if number == 9 and not request.out.with_name("once").exists():
                    request.out.with_name("once").touch()
                    raise Stopped
                yield one

        for attempt in range(2):
            prepared = prepare_collection(request)
            layer = prepared.loaded.model.get_submodule("model.language_model.layers.0")
            layer.register_forward_pre_hook(refuse, with_kwargs=True)
            if attempt:
                carry_out_collection(prepared, track, notices.append)
            else:
                with pytest.raises(Stopped):
                    carry_out_collection(prepared, track, notices.append)
        halved = [notice for notice in notices if "memory ran out" in notice]
        assert halved
        assert len(set(halved)) == len(halved)
