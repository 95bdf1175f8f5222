"""Runs a command and writes what it took, as JSON: `python peak.py FILE SECONDS COMMAND …`, exit status as its own.
After so many seconds of the processor the command is ended; 0 sets no limit. It is ended too once standard input is,
which is when whoever started this is gone.

A process counts the memory of the one that started it as its own peak, so a command that is to be measured is started
from here, which is small and imports nothing of chip, and not from where a model has been loaded.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread


def end_with_starter(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process once nobody holds the other end of standard input."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    process.kill()


if __name__ == "__main__":
    report, limit, *command = sys.argv[1:]
    if int(limit):
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    Thread(target=end_with_starter, args=(process,), daemon=True).start()
    status = process.wait()
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's time: what else runs on the machine does not count.
    seconds, peak = took.ru_utime + took.ru_stime, took.ru_maxrss / 1024
    stopped = -status in (signal.SIGXCPU, signal.SIGKILL) and bool(int(limit))
    Path(report).write_text(json.dumps({"seconds": seconds, "memory": peak, "stopped": stopped}))
    sys.exit(status)
