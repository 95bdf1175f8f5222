"""Files that are small by their kind have an end: a device, a pipe and gibibytes are refused, not read."""

import os
from pathlib import Path

import pytest
from command_line import chip

from chip.duolearn.lexicon import read_lexicon
from chip.duolearn.retrain import read_config
from chip.edit.ledger import read_ledgers
from chip.edit.receipt import read_receipt
from chip.edit.signature import private_key
from chip.errors import ChipError
from chip.files import MOST_BYTES_SMALL, read_small
from chip.medforget.splits import read_splits
from chip.models.stored import read_json
from chip.workflow.requests import MOST_BYTES_REQUESTS, read_requests

READERS = (
    *(read_config, read_json, read_lexicon, read_receipt, read_requests, read_splits),
    lambda path: read_ledgers((path,), b"salt" * 8),
)


class TestOneReader:
    def test_it_reads_up_to_the_most_and_no_byte_more(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"12345")
        assert read_small(tmp_path / "file", 5) == b"12345"
        with pytest.raises(ChipError, match="more than"):
            read_small(tmp_path / "file", 4)

    def test_what_is_no_file_is_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(ChipError, match="is no regular file"):
                read_small(path)

    def test_what_is_not_there_is_said_by_the_system(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_small(tmp_path / "absent")


@pytest.mark.parametrize("reader", READERS)
def test_every_small_file_is_read_by_it(reader: object, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as handle:  # a hole: it takes no space
        handle.truncate((MOST_BYTES_REQUESTS if reader is read_requests else MOST_BYTES_SMALL) + 1)
    assert callable(reader)
    with pytest.raises(ChipError, match="more than any file of its kind"):
        reader(large)
    with pytest.raises(ChipError, match="no regular file"):
        reader(Path("/dev/zero"))


def test_a_key_is_read_by_it() -> None:
    pytest.importorskip("cryptography")
    with pytest.raises(ChipError, match="no regular file"):
        private_key(Path("/dev/zero"))


def test_the_command_says_so_in_a_sentence(tmp_path: Path) -> None:
    done = chip("--config", "/dev/zero", "inspect", tmp_path)
    assert (done.returncode, done.stderr) == (1, "chip: /dev/zero is no regular file; name a file that has an end\n")
