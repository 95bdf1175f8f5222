"""The command line: parses, calls `chip.workflow`, prints. It holds no logic, and imports torch only to do work."""

import sys

from chip.cli.app import app
from chip.errors import ChipError, UsageError

_INTERRUPTED = 130


def main() -> None:
    """Run `chip`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        _run()
    except ChipError as problem:
        print(f"chip: {problem}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(problem, UsageError) else 1)
    except OSError as problem:
        what = f"{problem.filename}: " if problem.filename else ""
        print(f"chip: {what}{problem.strerror or problem}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        print("chip: interrupted; nothing half-written is left, long work goes on if run again", file=sys.stderr)  # noqa: T201
        sys.exit(_INTERRUPTED)


def _run() -> None:
    """Run the verb. Raises KeyboardInterrupt where it was interrupted, of which typer makes an exit without a word."""
    try:
        app()
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            raise KeyboardInterrupt from ended
        raise
