"""Runs a command and writes what it took, as JSON: `python peak.py FILE SECONDS COMMAND …`, exit status as its own.
After so many seconds of the processor the command is ended; 0 sets no limit.

A process counts the memory of the one that started it as its own peak, so a command that is to be measured is started
from here, which is small and imports nothing of chip, and not from where a model has been loaded.
"""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    report, limit, *command = sys.argv[1:]
    if int(limit):
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    status = subprocess.run(command).returncode
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's time: what else runs on the machine does not count.
    seconds, peak = took.ru_utime + took.ru_stime, took.ru_maxrss / 1024
    stopped = -status in (signal.SIGXCPU, signal.SIGKILL) and bool(int(limit))
    Path(report).write_text(json.dumps({"seconds": seconds, "memory": peak, "stopped": stopped}))
    sys.exit(status)
