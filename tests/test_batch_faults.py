"""Whatever happens while requests are carried out in one checkpoint, the same command goes on, and ends the same way.

A cumulative batch is killed at system calls that write, rename or sync, and its disk fails there; then it runs again.
"""

import errno
import shutil
from pathlib import Path

import pytest
from checkpoint_files import digests
from faults import Faults, Killed, failing
from test_batch import run_batch, weights

from chip.errors import ChipError
from chip.workflow import BatchResult

STEP = 5
"""Every so-manieth call: each takes two batches."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, llama_directory: Path, text_data: Path) -> "Batch":
    root = tmp_path_factory.mktemp("batch-faults")
    batch = Batch(root, Path(shutil.copytree(llama_directory, root / "model")), text_data)
    batch.run()
    return batch


class Batch:
    """Two requests of the tiny hospital in one checkpoint, and what they come to when nothing disturbs them."""

    def __init__(self, root: Path, model: Path, data: Path) -> None:
        self.out, self._model, self._data = root / "out", model, data
        self._before = digests(model)

    def run(self) -> BatchResult:
        lines = [{"forget": name, "settings": {"method": "chip"}} for name in ("patient_0", "patient_2")]
        return run_batch(self._model, self._data, self.out, *lines, cumulative=True)

    def afresh(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)

    def check_source(self) -> None:
        assert digests(self._model) == self._before


@pytest.mark.parametrize("kind", ["before", "after", "torn", errno.EIO, errno.ENOSPC])
def test_a_cumulative_batch_that_dies_anywhere_goes_on_where_it_was(place: Batch, kind: str | int) -> None:
    place.afresh()
    with failing(Faults()) as counted:
        place.run()
    expected = weights(place.out)
    assert any(name.startswith("model/") for name in expected)
    offset = ["before", "after", "torn", errno.EIO, errno.ENOSPC].index(kind)
    for number in range(offset, len(counted.calls), STEP):
        place.afresh()
        with failing(Faults(number, kind)):
            try:
                result = place.run()
            except (Killed, ChipError, OSError):
                result = None
        place.check_source()
        whole = {name: one for name, one in weights(place.out).items() if name.startswith("model/")}
        assert not whole or whole == {name: one for name, one in expected.items() if name.startswith("model/")}
        if result is None or result.failed:
            again = place.run()
            assert not again.failed, number
        assert weights(place.out) == expected, number
        assert not [path.name for path in place.out.iterdir() if path.name.startswith(".")], number
