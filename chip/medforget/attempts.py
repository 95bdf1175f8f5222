"""Commands as a user would type them, each alone in its process: what they took, and what they said."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chip.errors import ChipError

_KEPT = ("CHIP_SALT_FILE", "CHIP_KERNELS")
"""What is the machine's, not a request's."""

_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ran:
    """What a command took, as far as one ran, and said; `problem` is why it came to nothing, if so, and `stopped` that
    it reached its limit. seconds: of the processor; memory: the peak, in MiB."""

    seconds: float | None = None
    memory: float | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    stopped: bool = False


def chip_command(*arguments: str) -> list[str]:
    """A command of chip, as this interpreter runs it."""
    return [sys.executable, "-m", "chip", *arguments]


def run(command: Sequence[str], folder: Path) -> Ran:
    """Run a command that prints JSON, alone in its process. Raises ChipError, with what it said, where it fails."""
    ran = attempt(command, folder)
    if ran.problem:
        raise ChipError(f"{shlex.join(command)} {ran.problem}")
    return ran


def attempt(command: Sequence[str], folder: Path, limit: int = 0) -> Ran:
    """The same, for so many seconds of the processor at most; what fails, or takes longer, is told in `problem`.

    The command runs in `folder`, with paths that should be absolute, and without what chip.toml, the environment or a
    launcher of several processes would give it, so that it does what it says and nothing else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said, took, wrong = folder / "said.json", folder / "took.json", folder / "errors.txt"
    script = Path(__file__).with_name("peak.py")
    measured = [sys.executable, str(script), str(took), str(limit), *command]
    took.unlink(missing_ok=True)
    with (
        said.open("wb") as output,
        wrong.open("wb") as errors,
        # Standard input is open for as long as this process lives: the command ends with it, even where it is killed.
        subprocess.Popen(
            measured, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=errors, env=_environment()
        ) as process,
    ):
        status = process.wait()
    if not took.exists():
        return Ran(problem=f"was ended (exit status {status})")
    found = json.loads(took.read_text())
    took.unlink()
    stopped = found.pop("stopped")
    if not status:
        return Ran(**found, said=json.loads(said.read_text()))
    if stopped:
        return Ran(**found, problem=f"ended at its limit of {limit} s", stopped=True)
    last = wrong.read_text(errors="replace").strip().splitlines()[-1:]
    return Ran(**found, problem=f"failed: {''.join(last)}")


def _environment() -> dict[str, str]:
    ours = {name for name in os.environ if name.startswith("CHIP_")} - set(_KEPT)
    return {name: value for name, value in os.environ.items() if name not in ours | set(_LAUNCHER)}
