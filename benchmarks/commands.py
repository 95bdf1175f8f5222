"""Commands as a user would type them, each alone in its process: what they took, said and changed."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model

METHODS = {
    "counterpart (default)": "--method counterpart",
    "oblique": "--method oblique",
    "chip, paper's settings": "--method chip --top-k 10 --variance 0.95 --no-tune",
    "chip, all layers": "--method chip --layers 0-{last}",
    "duolearn, ε = 4 each trial": "--method duolearn --geometric-steps 10 --steps 30 --tune",
    "duolearn, without privacy": "--method duolearn --no-dp",
    "ga": "--method ga",
    "graddiff": "--method graddiff",
    "kl": "--method kl",
    "npo": "--method npo",
    "simnpo": "--method simnpo",
    "rmu": "--method rmu",
    "idk": "--method idk",
}
"""By name, the flags of `chip edit`: what is given here no search changes. `{last}` is the number of the last layer."""


@dataclass(frozen=True)
class Ran:
    """What a command took, as far as one ran, and said; `problem` is why it came to nothing, if so."""

    seconds: float | None = None
    memory: float | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def run(command: Sequence[str], folder: Path) -> Ran:
    """Run a command that prints JSON, alone in its process. Raises SystemExit, with what it said, where it fails."""
    ran = attempt(command, folder)
    if ran.problem:
        raise SystemExit(f"{shlex.join(command)} failed:\n{(folder / 'errors.txt').read_text()}")
    return ran


def attempt(command: Sequence[str], folder: Path, limit: int = 0) -> Ran:
    """The same, for so many seconds of the processor at most; what fails, or takes longer, is told in `problem`."""
    said, took, wrong = folder / "said.json", folder / "took.json", folder / "errors.txt"
    measured = [sys.executable, str(Path(__file__).with_name("peak.py")), str(took), str(limit), *command]
    with said.open("wb") as output, wrong.open("wb") as errors:
        ended = subprocess.run(measured, stdout=output, stderr=errors, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = json.loads(took.read_text())
    stopped = found.pop("stopped")
    if not ended.returncode:
        return Ran(**found, said=json.loads(said.read_text()))
    if stopped:
        return Ran(**found, problem=f"ended at its limit of {limit} s")
    last = wrong.read_text().strip().splitlines()[-1:]
    return Ran(**found, problem=f"failed: {''.join(last)}")


def changed(before: Path, after: Path) -> int:
    """How many parameters of two checkpoints differ."""
    old, new = (dict(load_model(Checkpoint(one), "cpu").model.named_parameters()) for one in (before, after))
    return sum(int((old[name] != parameter).sum()) for name, parameter in new.items())
