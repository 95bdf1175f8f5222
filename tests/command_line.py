"""Running `chip`: as a process of its own where that is the point, in this process where it is not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from chip.cli.app import app as command_line_application


def chip(*arguments: Any, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m chip` with its exit code and everything it said."""
    return subprocess.run(
        [sys.executable, "-m", "chip", *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


def chip_here(*arguments: Any, **environment: str) -> Result:
    """The same in this process: quicker, with errors as exceptions."""
    return CliRunner().invoke(command_line_application, list(map(str, arguments)), env=environment)
