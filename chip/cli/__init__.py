"""The command line: parses, calls `chip.workflow`, prints. It holds no logic, and imports torch only to do work."""

import sys

from chip.errors import ChipError, UsageError
from chip.readable import one_line

_INTERRUPTED = 130


def main() -> None:
    """Run `chip`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        _run()
    except ChipError as problem:
        _say(str(problem))
        sys.exit(2 if isinstance(problem, UsageError) else 1)
    except OSError as problem:
        what = f"{problem.filename}: " if problem.filename else ""
        _say(f"{what}{problem.strerror or problem}")
        sys.exit(1)
    except MemoryError:
        _say("there is not enough memory for this; choose fewer records, a smaller batch, or a machine with more")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted; nothing half-written is left, long work goes on if run again")
        sys.exit(_INTERRUPTED)


def _say(sentence: str) -> None:
    """A sentence on stderr. Names of files, tensors and nodes in it may be anybody's."""
    print(f"chip: {one_line(sentence)}", file=sys.stderr)  # noqa: T201


def _run() -> None:
    """Run the verb. Raises KeyboardInterrupt where it was interrupted, of which typer makes an exit without a word.

    The verbs are imported here, so that an interruption meanwhile is told as any other.
    """
    from chip.cli.app import app

    try:
        app()
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            raise KeyboardInterrupt from ended
        raise
