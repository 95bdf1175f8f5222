"""Progress of a training, kept in a hidden file beside its output, and its log.

The file holds the parameters as they stand and what the method remembers: it says as much about the records as the
edited model, so it has mode 0600 and goes once the edit is written.
"""

import glob
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor

from chip.collect.progress_file import ProgressFile
from chip.collect.tensors import UNREADABLE
from chip.files import write_private
from chip.solve.problem import Problem

if TYPE_CHECKING:
    from chip.duolearn.loop import Losses

FORMAT = "chip-training-1"
LOG_FORMAT = "chip-training-log-1"


@dataclass(frozen=True)
class Where:
    """How far a training has come: its phase, steps taken, looks in a row that found the goals met, seconds, whether it
    has ended, why it diverged (empty where it did not), and the lines of its log."""

    phase: str
    step: int
    looks: int
    seconds: float
    ended: bool
    diverged: str
    lines: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Kept:
    """Progress as it was kept: where it is, the parameters, and what the phase remembers."""

    where: Where
    parameters: dict[str, Tensor]
    memory: dict[str, Tensor]


def identity(problem: Problem) -> str:
    """What a training is one of: SHA-256 over its request and its settings."""
    content = [problem.course.identity, problem.settings.described(), problem.turn]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class KeptTraining(ProgressFile):
    """Keeps a training's progress."""

    form, work = FORMAT, "training"

    def read(self, notice: Callable[[str], None]) -> Kept | None:
        """Where the same training left off; None where there is nothing, or, with a notice, only of another one.

        Raises ChipError where the file is damaged.
        """
        try:
            header = self._header(notice)
            if header is None:
                return None
            where = Where(**{**header["where"], "lines": tuple(header["where"]["lines"])})
            parts = load_file(self.path)
            parameters, memory = ({k.partition(":")[2]: t for k, t in parts.items() if k[0] == p} for p in "pm")
            return Kept(where, parameters, memory)
        except UNREADABLE as problem:
            raise self.damaged(problem) from problem

    def write(self, where: Where, parameters: Mapping[str, Tensor], memory: Mapping[str, Tensor]) -> None:
        """Keep how far a training has come, in place of what was kept before."""
        tensors = {f"p:{name}": one for name, one in parameters.items()}
        tensors |= {f"m:{name}": one for name, one in memory.items()}
        self._keep(tensors, {"where": asdict(where)})


def remove_training(path: Path) -> None:
    """Forget the progress that is kept at a path and, of the trials of a search, at those that begin with it."""
    for one in path.parent.glob(glob.escape(path.name) + "*"):
        one.unlink(missing_ok=True)


class TrainingLog:
    """One line a step, written as JSON lines, mode 0600, once the training ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: tuple[Mapping[str, Any], ...] = ()

    def begin(self, lines: tuple[Mapping[str, Any], ...]) -> None:
        """Go on after these lines."""
        self.lines = lines

    def line(self, step: int, phase: str, losses: "Losses", seconds: float) -> None:
        """One step: its number from 1, its phase, its losses, and the seconds since the beginning."""
        measured = {f"{name}_loss": value for name, value in asdict(losses).items()}
        self.lines = (
            *self.lines,
            {"format": LOG_FORMAT, "step": step, "phase": phase, **measured, "seconds": round(seconds, 3)},
        )

    def write(self) -> None:
        write_private(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
