"""Going on after an interruption: what a collection has added up so far, kept in a hidden file beside its output.

The file holds every accumulator as it stands, so that going on gives the bytes that never stopping would have given.
It may hold single activations as they came: mode 0600, and gone as soon as the statistics are written.
"""

import glob
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
from safetensors.torch import load_file
from torch import Tensor

from chip.collect.state import State
from chip.collect.tensors import read_header, write_tensors
from chip.errors import ChipError

FORMAT = "chip-partial-1"

_SHARE = 20
"""A collection spends at most one part in so many on keeping what it has."""


@dataclass(frozen=True)
class Partial:
    """How far a collection has come: windows that are done, tokens a pass, rows of the sketches by site, and the
    accumulators."""

    windows: int
    batch_tokens: int
    sketched: dict[str, int]
    states: dict[str, State]


class PartialFile:
    """Keeps a collection's progress at `path`, every so many seconds. `identity` is a digest of what is collected."""

    def __init__(self, path: Path, identity: str, seconds: float) -> None:
        self.path, self.identity = path, identity
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def read(self, notice: Callable[[str], None]) -> Partial | None:
        """Where the same collection left off; None where there is nothing, or, with a notice, only of something else.

        Raises ChipError where the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            header = read_header(self.path)
            if header["format"] != FORMAT or header["identity"] != self.identity:
                notice(f"{self.path.name} holds the progress of another collection, which is dropped")
                return None
            counts = (header["windows"], header["batch_tokens"], *header["sketched"].values())
            if not all(type(count) is int and count > 0 for count in counts):
                raise ValueError("a count is none")
            states = _states(load_file(self.path), header["numbers"])
            return Partial(header["windows"], header["batch_tokens"], header["sketched"], states)
        except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as problem:
            raise self.damaged(problem) from problem

    def damaged(self, problem: Exception) -> ChipError:
        """What to say where the file does not hold what it should."""
        return ChipError(f"{self.path} is damaged ({problem}); remove it to start afresh")

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._next

    def write(self, partial: Partial) -> None:
        """Keep how far a collection has come, in place of what was kept before."""
        began = time.monotonic()
        tensors = {f"{site}/{name}": t for site, one in partial.states.items() for name, t in one.tensors.items()}
        header = {
            "format": FORMAT,
            "identity": self.identity,
            "windows": partial.windows,
            "batch_tokens": partial.batch_tokens,
            "sketched": partial.sketched,
            "numbers": {site: dict(one.numbers) for site, one in partial.states.items()},
        }
        write_tensors(self.path, tensors, header)
        ended = time.monotonic()
        self._next = ended + max(self._seconds, _SHARE * (ended - began))


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
