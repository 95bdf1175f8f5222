"""Commands as a user would type them, each alone in its process: what they took, and what they said."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from chip.allowed import ALLOWED_FOLDERS, ALLOWED_PIXELS
from chip.errors import ChipError

_KEPT = ("CHIP_SALT_FILE", "CHIP_KERNELS", ALLOWED_PIXELS, ALLOWED_FOLDERS)
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
    """The same, for so many seconds of the processor at most; what fails, takes longer or says no JSON is told in
    `problem`.

    The command runs in `folder`, with paths that should be absolute, and without what chip.toml, the environment or a
    launcher of several processes would give it, so that it does what it says and nothing else. What it says may name
    nodes: it goes to files without a name, which nobody else can open and which are gone however this process ends.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    took = folder / "took.json"
    script = Path(__file__).with_name("peak.py")
    measured = [sys.executable, str(script), str(took), str(limit), *command]
    took.unlink(missing_ok=True)
    with TemporaryFile(dir=folder) as output, TemporaryFile(dir=folder) as errors:
        # Standard input is open for as long as this process lives: the command ends with it, even where it is killed.
        with subprocess.Popen(
            measured, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=errors, env=_environment()
        ) as process:
            status = process.wait()
        said, wrong = _written(output), _written(errors)
    if not took.exists():
        return Ran(problem=f"was ended (exit status {status})")
    found = json.loads(took.read_text())
    took.unlink()
    stopped = found.pop("stopped")
    if not status:
        values = _object(said)
        return Ran(**found, problem="said no JSON object") if values is None else Ran(**found, said=values)
    if stopped:
        return Ran(**found, problem=f"ended at its limit of {limit} s", stopped=True)
    last = wrong.decode(errors="replace").strip().splitlines()[-1:]
    return Ran(**found, problem=f"failed: {''.join(last)}")


def _written(file: IO[bytes]) -> bytes:
    """All that a command wrote to a file that it shares with this process."""
    file.seek(0)
    return file.read()


def _object(said: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _environment() -> dict[str, str]:
    ours = {name for name in os.environ if name.startswith("CHIP_")} - set(_KEPT)
    return {name: value for name, value in os.environ.items() if name not in ours | set(_LAUNCHER)}
