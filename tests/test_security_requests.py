"""Requests and settings from a stranger: names that would be paths, numbers without end, defaults that nobody chose."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import digests
from command_line import chip_here
from hostile import ESCAPES, record, said_by
from tiny_records import write_lines

from chip.edit.ledger import read_ledgers
from chip.errors import ChipError
from chip.medforget.splits import read_splits
from chip.workflow.requests import read_requests


class TestBatches:
    @pytest.mark.parametrize(
        "name", ["../x", "/tmp/x", "a/b", "a\\b", "..", ".", ".x", "", "a\0b", ESCAPES, "x" * 300, 7]
    )
    def test_an_output_that_would_lie_elsewhere_is_refused_before_anything_runs(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, name: Any
    ) -> None:
        (tmp_path / "requests.jsonl").write_text(json.dumps({"forget": "patient_0", "out": name}))
        asked = ("batch", llama_directory, tmp_path / "requests.jsonl", "--data", text_data)
        done = chip_here(*asked, "--out-dir", tmp_path / "deep" / "out")
        assert isinstance(done.exception, ChipError)
        assert "line 1" in str(done.exception)
        assert {path.name for path in tmp_path.iterdir()} == {"requests.jsonl"}

    @pytest.mark.parametrize(
        "line",
        [
            "[" * 100_000,
            '{"forget": "a", "forget": "b"}',
            '{"forget": "a", "settings": {"strength": NaN}}',
            '{"forget": "a", "settings": {"strength": 1e999}}',
            '{"forget": "a", "settings": {"seed": ' + "9" * 4000 + "}}",
            '{"forget": "a", "settings": {"held": ' + "9" * 5000 + "}}",
            '{"forget": "a", "settings": {"__class__": 1}}',
            '{"forget": "a", "settings": {"train_config": ["x"]}}',
            '{"forget": {"a": 1}}',
            '{"forget": []}',
            "null",
        ],
        ids=["nested", "twice", "nan", "infinite", "seed", "digits", "class", "list", "object", "none", "null"],
    )
    def test_a_line_that_makes_no_sense_is_refused_by_its_number(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "requests.jsonl").write_text(f'{{"forget": "fine"}}\n{line}\n')
        with pytest.raises(ChipError, match="line 2: "):
            read_requests(tmp_path / "requests.jsonl")

    def test_a_link_at_an_output_is_not_followed(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "diary.txt").write_text("private")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "one").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "requests.jsonl").write_text('{"forget": "patient_0", "out": "one"}')
        asked = ("batch", llama_directory, tmp_path / "requests.jsonl", "--data", text_data, "--no-verify")
        chip_here(*asked, "--out-dir", tmp_path / "out", "--force", "--workers", 0)
        assert set(digests(tmp_path / "elsewhere")) == {"diary.txt"}


class TestFilesOfSettings:
    @pytest.mark.parametrize(
        "content",
        ["a = " + "[" * 100_000, "\x00", "a = 1", "edit = 1", "[edit]\nnothing = 1", f'"{ESCAPES[1:5]}" = 1', "= 1"],
        ids=["nested", "null", "unknown", "scalar", "unknown-of-verb", "acting", "none"],
    )
    def test_one_that_makes_no_sense_is_one_sentence(
        self, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch, llama_directory: Path
    ) -> None:
        (tmp_path / "chip.toml").write_text(content)
        monkeypatch.chdir(tmp_path)
        assert isinstance(chip_here("inspect", llama_directory).exception, ChipError)

    @pytest.mark.parametrize("place", ["", "[audit]\n", "[medforget.run]\n"])
    @pytest.mark.parametrize("key", ["allow-remote-judge", "allow_remote_judge"])
    def test_none_lets_records_leave_the_machine(
        self, tmp_path: Path, place: str, key: str, monkeypatch: pytest.MonkeyPatch, llama_directory: Path
    ) -> None:
        (tmp_path / "chip.toml").write_text(f'{place}judge = "http://192.0.2.1/v1"\n{key} = true\n')
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ChipError, match="on the command line only"):
            raise chip_here("inspect", llama_directory).exception or AssertionError

    def test_a_pipe_that_is_called_like_one_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_directory: Path
    ) -> None:
        os.mkfifo(tmp_path / "chip.toml")
        monkeypatch.chdir(tmp_path)
        refused = chip_here("inspect", llama_directory)
        assert isinstance(refused.exception, ChipError)
        assert "no regular file" in str(refused.exception)

    @pytest.mark.parametrize("content", [b"[" * 100_000, b"null", b"{}", b"\xff", b'{"format": "chip-splits-1"}'])
    def test_splits_and_ledgers_that_are_none_are_one_sentence(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.json").write_bytes(content)
        for read in (read_splits, lambda path: read_ledgers([path], b"s" * 32)):
            with pytest.raises(ChipError):
                read(tmp_path / "x.json")


class TestWhatIsAsked:
    @pytest.mark.parametrize("name", [ESCAPES, "../..", "a\nb", "{}", "[red]", "%s", "\ud800", "x" * 100_000])
    def test_a_node_that_is_not_there_is_told_without_acting(
        self, name: str, llama_directory: Path, text_data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = said_by(capsys, "edit", llama_directory, "--data", text_data, f"--forget={name}", "--dry-run")
        assert said.startswith("chip: ")
        assert said.replace("\n", "").isprintable()

    def test_an_output_that_would_replace_what_is_not_chips_is_refused(
        self, tmp_path: Path, llama_directory: Path
    ) -> None:
        data = write_lines(tmp_path / "data", record("p0"), record("p1"))
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("mine")
        for flag, place in (("--out", "mine"), ("--receipt", "mine/thesis.txt"), ("--edit-out", "mine/thesis.txt")):
            out = () if flag == "--out" else ("--out", tmp_path / "out")
            asked = ("edit", llama_directory, "--data", data, "--forget", "p0", "--no-verify", "--force", *out)
            done = chip_here(*asked, flag, tmp_path / place, "--workers", 0)
            assert isinstance(done.exception, ChipError), flag
        assert digests(tmp_path / "mine").keys() == {"thesis.txt"}
        assert not (tmp_path / "out").exists()
