"""Going on after an interruption: what a collection has added up so far, kept in a hidden file beside its output.

The file holds every accumulator as it stands, so that going on gives the bytes that never stopping would have given.
It may hold single activations as they came: mode 0600, and gone as soon as the statistics are written.
"""

import glob
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from chip.collect.progress_file import ProgressFile
from chip.collect.state import State
from chip.collect.tensors import UNREADABLE

FORMAT = "chip-partial-1"


@dataclass(frozen=True)
class Partial:
    """How far a collection has come: windows that are done, tokens a pass, rows of the sketches by site, and the
    accumulators."""

    windows: int
    batch_tokens: int
    sketched: dict[str, int]
    states: dict[str, State]


class PartialFile(ProgressFile):
    """Keeps a collection's progress."""

    form, work = FORMAT, "collection"

    def read(self, notice: Callable[[str], None]) -> Partial | None:
        """Where the same collection left off; None where there is nothing, or, with a notice, only of something else.

        Raises ChipError where the file is damaged.
        """
        try:
            header = self._header(notice)
            if header is None:
                return None
            counts = (header["windows"], header["batch_tokens"], *header["sketched"].values())
            if not all(type(count) is int and count > 0 for count in counts):
                raise ValueError("a count is none")
            states = _states(load_file(self.path), header["numbers"])
            return Partial(header["windows"], header["batch_tokens"], header["sketched"], states)
        except UNREADABLE as problem:
            raise self.damaged(problem) from problem

    def write(self, partial: Partial) -> None:
        """Keep how far a collection has come, in place of what was kept before."""
        tensors = {f"{site}/{name}": t for site, one in partial.states.items() for name, t in one.tensors.items()}
        header = {
            "windows": partial.windows,
            "batch_tokens": partial.batch_tokens,
            "sketched": partial.sketched,
            "numbers": {site: dict(one.numbers) for site, one in partial.states.items()},
        }
        self._keep(tensors, header)


def remove_leftovers(path: Path) -> None:
    """Forget all progress towards the statistics at `path`: this process's, that of teams of any size, and what killed
    processes were about to write. To be called once nobody collects for it any more."""
    name = glob.escape(path.name)
    # The second is what files of progress are called while they are written.
    for pattern in (f".{name}.partial*", f"..{name}.partial*.chip-partial-*", f".{name}.chip-partial-*"):
        for left in path.parent.glob(pattern):
            left.unlink(missing_ok=True)


def _states(tensors: dict[str, Tensor], numbers: dict[str, dict[str, int | float]]) -> dict[str, State]:
    return {
        site: State({key.rpartition("/")[2]: t for key, t in tensors.items() if key.rpartition("/")[0] == site}, held)
        for site, held in numbers.items()
    }
