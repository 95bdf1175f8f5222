"""`chip` in processes that can be watched and killed: forks of this one, which need not import torch again."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from chip.cli import main

_PATIENCE = 60.0


@dataclass(frozen=True)
class Running:
    """A process that runs the command line, and the file that all it says goes to."""

    process: ForkProcess
    said: Path

    def kill(self) -> None:
        """End it as nothing can be prepared for."""
        self.process.kill()

    def interrupt(self) -> None:
        """End it as Ctrl-C does."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGINT)

    def wait(self) -> tuple[int, str]:
        """Its exit code, −9 where it was killed, and everything that it said."""
        started = time.monotonic()
        # Not by joining it, which waits for its own children too.
        while (code := self.process.exitcode) is None:
            if time.monotonic() > started + _PATIENCE:
                self.process.kill()
                raise TimeoutError(f"still running, after it said: {self.said.read_text()}")
            time.sleep(0.01)
        return code, self.said.read_text()


def start(said: Path, *arguments: Any, **environment: str) -> Running:
    """Run `chip` with these arguments in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(said, arguments, environment))
    process.start()
    return Running(process, said)


def start_team(said: Path, size: int, *arguments: Any, **others: tuple[Any, ...]) -> list[Running]:
    """Several processes that work together, without a launcher that would end the others with one of them.

    others: by `rank_1` and so on, the arguments of a process that is not started like the rest.
    """
    port = str(free_port())
    return [
        start(
            said.with_name(f"{said.name}-{rank}"),
            *others.get(f"rank_{rank}", arguments),
            RANK=str(rank),
            WORLD_SIZE=str(size),
            LOCAL_RANK=str(rank),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(size)
    ]


def until(what: Callable[[], object], running: Running) -> None:
    """Wait for something to happen while a process runs."""
    started = time.monotonic()
    while not what():
        if not running.process.is_alive() or time.monotonic() > started + _PATIENCE:
            raise TimeoutError(f"it did not happen, and the process said: {running.said.read_text()}")
        time.sleep(0.001)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _run(said: Path, arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    # A test run in the background ignores SIGINT, and would pass that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    sys.argv = ["chip", *map(str, arguments)]
    main()
