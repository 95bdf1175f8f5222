"""How chip grows: with records and nodes through reading, planning and collecting, with requests through a batch.

    python benchmarks/load.py [--work DIR] [--records 1000 …] [--requests 10 …] [--beside 10000] [--limit SECONDS]

Tiny models (`crowd.py`), so that what is done for each record, node and request is seen. Every step is a process of its
own, whose seconds of the processor, seconds by the clock and peak memory are what is told. Steps that are done are not
done again: `load.json` in the work directory holds them as they come. Records are text, and then pictures, one a
patient. Requests forget a section each, and hold 64 records beside it (`held`), an
eighth of what `chip edit` does, so that there is time for a thousand. Writes `benchmarks/results/load.md`,
`.json` and `.png`. Hours on two shared cores.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Timer
from typing import Annotated

import crowd
import load_page
import typer
from load_page import COLLECTING

Step = dict[str, float]

RECORDS, REQUESTS = (1_000, 10_000, 30_000, 100_000), (10, 100, 1_000)
CUMULATIVE = (10, 20, 40)
PREPARE = """
import sys
from pathlib import Path
from chip.workflow import EditRequest, prepare_edit
prepare_edit(EditRequest(model=sys.argv[1], data=Path(sys.argv[2]), forget=("study_0_0/section_0",), device="cpu"))
"""


class Book:
    """What was measured so far, by step, in a file: a step is run where it is not there yet."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self.limit = path, limit
        self.steps: dict[str, Step] = json.loads(path.read_text()) if path.exists() else {}

    def enter(self, name: str, measure: Callable[[], Step]) -> Step:
        """A step's figures, measured unless they are known."""
        if name not in self.steps:
            self.steps[name] = measure()
            typer.echo(f"{name}: {self.steps[name]}")
            self.path.write_text(json.dumps(self.steps, indent=1) + "\n")
        return self.steps[name]

    def run(self, *command: object, killed_after: float | None = None) -> Step:
        """Run a command; seconds by the clock and of the processor, and peak memory in MiB, its children included.

        killed_after: end it so, as if the power had gone. Raises RuntimeError where it fails or exceeds its limit.
        """
        began = time.monotonic()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        arguments = [sys.executable, *map(str, command)]
        with (self.path.parent / "load.log").open("ab") as log:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment, start_new_session=True)
            timer = Timer(killed_after or self.limit, os.killpg, (process.pid, signal.SIGKILL))
            timer.start()
            _, status, used = os.wait4(process.pid, 0)
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and killed_after is None:
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}; see load.log")
        return {
            "clock": round(time.monotonic() - began, 2),
            "processor": round(used.ru_utime + used.ru_stime, 2),
            "mebibytes": round(used.ru_maxrss / 1024, 1),
        }


def main(
    work: Annotated[Path, typer.Option(help="Where records, models and checkpoints are kept.")] = Path("load-work"),
    records: Annotated[list[int] | None, typer.Option(help="Numbers of records to collect.")] = None,
    requests: Annotated[list[int] | None, typer.Option(help="Numbers of requests of a batch.")] = None,
    cumulative: Annotated[list[int] | None, typer.Option(help="Numbers of requests in one checkpoint.")] = None,
    beside: Annotated[int, typer.Option(help="Records that batches are run on, of those that are collected.")] = 10_000,
    limit: Annotated[int, typer.Option(help="Seconds that any step may take.")] = 3600,
) -> None:
    """Run what was not run yet, and write the page."""
    work.mkdir(parents=True, exist_ok=True)
    book = Book(work / "load.json", limit)
    counts, sizes = records or RECORDS, requests or REQUESTS
    for kind, make in {"text": crowd.text_model, "pictures": crowd.llava}.items():
        if not (work / kind).exists():
            make(work / kind)
        for number in counts:
            collecting(book, work, kind, number)
            load_page.write(book.steps, beside)
    for number in sizes:
        batch(book, work, beside, number)
        load_page.write(book.steps, beside)
    for number in counts:
        batch(book, work, number, min(sizes))
    batch(book, work, beside, 10 * min(sizes), jobs=2)
    batch(book, work, beside, min(sizes), verify=True)
    for number in cumulative or CUMULATIVE:
        batch(book, work, beside, number, cumulative=True)
    load_page.write(book.steps, beside)


def _write_crowd(work: Path, kind: str, number: int, more: int = 0) -> Path:
    directory = work / f"{kind}-{number}{'-more' if more else ''}"
    if not directory.exists():
        crowd.write_crowd(directory, number, images=kind == "pictures", more=more)
    return directory


def collecting(book: Book, work: Path, kind: str, number: int, steps: Sequence[str] = COLLECTING) -> None:
    """Read, prepare, collect, go on after a kill, and add a hundredth; sizes of what is left."""
    model, data, statistics = work / kind, _write_crowd(work, kind, number), _statistics(work, kind, number)
    collect: Sequence[object] = ("-m", "chip", "collect", model)
    whole: Sequence[object] = (*collect, "--data", data, "--out", statistics)
    other = statistics.with_name(f"other-{statistics.name}")

    def collected() -> Step:
        found = book.run(*whole)
        return {**found, "file": statistics.stat().st_size / 2**20}

    def gone_on() -> Step:
        stopped = (*collect, "--data", data, "--out", other, "--save-every", 1)
        seconds = book.steps[f"collect, {kind}, {number} records"]["clock"] * 0.7
        first, second = book.run(*stopped, killed_after=seconds), book.run(*stopped)
        same = other.read_bytes() == statistics.read_bytes()
        other.unlink()
        return {**second, "before": first["processor"], "same": same}

    def added() -> Step:
        more = _write_crowd(work, kind, number, more=number // 100)
        shutil.copy(statistics, other)
        found = book.run(*collect, "--data", more, "--out", other)
        other.unlink()
        return found

    measures: dict[str, Callable[[], Step]] = {
        "read": lambda: book.run("-m", "chip", "inspect", model, "--data", data),
        "prepare": lambda: book.run("-c", PREPARE, model, data),
        "collect": collected,
        "collect again": lambda: book.run(*whole),
        "go on": gone_on,
        "add a hundredth": added,
    }
    for step in steps:
        book.enter(f"{step}, {kind}, {number} records", measures[step])


def _statistics(work: Path, kind: str, number: int) -> Path:
    return work / f"{kind}-{number}.statistics.safetensors"


def batch(
    book: Book, work: Path, number: int, requests: int, *, jobs: int = 1, cumulative: bool = False, verify: bool = False
) -> None:
    """So many requests, a section each, on so many records; its output is measured and removed."""
    lines = work / f"{requests}.jsonl"
    named = (crowd.section(place) for place in range(requests))
    lines.write_text("".join(json.dumps({"forget": one, "settings": {"held": 64}}) + "\n" for one in named))
    how = ("", f", {jobs} jobs")[jobs > 1] + ", one checkpoint" * cumulative + ", verified" * verify
    out = work / "released"

    def measured() -> Step:
        shutil.rmtree(out, ignore_errors=True)
        command: Sequence[object] = (
            *("-m", "chip", "batch", work / "text", lines, "--data", work / f"text-{number}", "--out-dir", out),
            *("--statistics", _statistics(work, "text", number), "--jobs", jobs, "--link", "--no-tune"),
            *(("--verify-records", 20) if verify else ("--no-verify",)),
            *(("--cumulative",) if cumulative else ()),
        )
        found = book.run(*command)
        beside = {one: one.stat() for one in out.iterdir() if one.is_file()}
        inside = sum(one.stat().st_size for one in out.glob("*/*") if one.stat().st_nlink == 1)
        again = book.run(*command)
        ledgers = sum(beside[out / name].st_size for name in ("ledger.json", "summary.json"))
        kept = sum(one.st_size for one in beside.values()) - ledgers
        shutil.rmtree(out)
        return {
            **found,
            "again": again["processor"],
            "checkpoints": inside / 2**20,
            "receipts and edits": kept / 2**20,
            "ledger and summary": ledgers / 2**20,
        }

    book.enter(f"batch, {requests} requests, {number} records{how}", measured)


if __name__ == "__main__":
    typer.run(main)
