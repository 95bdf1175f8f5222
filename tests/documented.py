"""Pages as programs: the commands and the Python that a page shows, run to the letter, block after block.

A block fenced as `sh` or `python` is run, in the directory in which the one before it ended; one fenced as `text`
behind it is what it prints, but for figures, which differ from one machine to another, and lines that are left out.
Everything else is shown and not run. What cannot be run, or not here, stands in `EXCEPTIONS`, with the reason.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INSTALLS = "installs packages: the wheel is built and installed by a check of its own"
_EXPORT = (
    "needs an export of a hospital; tests/test_building.py and tests/test_medforget.py run these verbs on a made-up one"
)
EXCEPTIONS: dict[str, dict[str, str]] = {
    "README.md": {
        "make demo": "makes an environment of its own and does what the commands below do",
        "make test": "runs these tests",
        "pip install -c constraints.txt '.[audit]'": _INSTALLS,
        "pip install -c constraints.txt '.[medforget]'": _INSTALLS,
        "chip medforget build EXPORT --out data": _EXPORT,
        "chip medforget check data": _EXPORT,
        "chip medforget finetune base data --out model": _EXPORT,
        "chip medforget run model data --out results --methods counterpart,oblique,chip,npo --gold gold": _EXPORT,
    },
    "docs/index.md": {"pip install -c constraints.txt '.[audit]'": _INSTALLS},
    "docs/tutorial.md": {"pip install -c constraints.txt '.[audit]'": _INSTALLS},
    "docs/how-to/adapters.md": {"pip install -c constraints.txt '.[medforget]'": _INSTALLS},
    "docs/how-to/auditing.md": {"pip install -c constraints.txt '.[audit]'": _INSTALLS},
    "docs/how-to/medforget-parquet.md": {"pip install -c constraints.txt '.[medforget]'": _INSTALLS},
    "docs/how-to/many-gpus.md": {
        "accelerate launch --multi_gpu -m chip collect model --data records --out model.statistics.safetensors": (
            "needs GPUs: without them accelerate starts one process"
        ),
        "chip edit model --forget patient_123 --device spread --force": "needs several GPUs",
    },
}
"""By page the commands that are not run, without their comments, and why."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text and the line on which the text begins."""

    language: str
    text: str
    line: int

    def commands(self) -> Iterator[str]:
        """The lines of a shell block without comments."""
        yield from (line for line in map(_bare, self.text.splitlines()) if line)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in _FENCE.finditer(text)]


def run_page(page: Path, directory: Path) -> None:
    """Run what a page shows in a directory. Raises AssertionError, naming page and line, where it fails or differs."""
    name, place, said = str(page.relative_to(ROOT)), directory, ""
    for block in blocks(page):
        where = f"{name}, line {block.line}"
        if block.language == "text":
            _compare(block, said, where)
        elif block.language in ("sh", "python"):
            code, said, place = _run(block, EXCEPTIONS.get(name, {}), place)
            assert code == 0, f"{where}: exit code {code}\n{said}"


def _run(block: Block, exceptions: dict[str, str], place: Path) -> tuple[int, str, Path]:
    """Exit code, what was printed, and where the block ended."""
    ended = place / ".ended"
    if block.language == "python":
        command, text = [sys.executable, "-"], block.text
    else:
        command = ["bash", "-euo", "pipefail"]
        kept = [line for line in block.text.splitlines() if _bare(line) not in exceptions]
        text = "\n".join([*kept, f'pwd > "{ended}"', ""])
    done = subprocess.run(
        command,
        input=text,
        cwd=place,
        env=_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if ended.exists():
        place = Path(ended.read_text(encoding="utf-8").strip())
        ended.unlink()
    return done.returncode, done.stdout, place


def _environment() -> dict[str, str]:
    """This environment, in which `chip` and `python` are those that run the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}


def _compare(block: Block, said: str, where: str) -> None:
    """Every line of the block stands in what was said, in its order, but for figures and blanks."""
    left = iter([_shape(line) for line in said.splitlines()])
    for line in block.text.splitlines():
        assert _shape(line) in left or not line.strip(), f"{where}: {line!r} is not, or not there, in\n{said}"


def _shape(line: str) -> str:
    return re.sub(r"[\d.]+", "0", " ".join(line.split()))


def _bare(line: str) -> str:
    """A command without its comment."""
    return re.sub(r"(^|\s)#.*", "", line).strip()
