"""`chip batch` carried out: the statistics once, then request after request, the ledger and the summary."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chip.collect.fitting import Notice
from chip.edit.ledger import Ledger, owner_of, read_ledgers, write_ledger
from chip.edit.receipt import read_salt
from chip.files import lock_of, locked
from chip.progress import Track, silent
from chip.workflow.batch import LEDGER, SUMMARY, PreparedBatch, Tell
from chip.workflow.cumulative import run_cumulatively
from chip.workflow.independent import run_independently
from chip.workflow.opened import obtain
from chip.workflow.outcome import Outcome, write_summary


@dataclass(frozen=True)
class BatchResult:
    """What became of each request, in their order, and of all of them together where they are cumulative."""

    outcomes: tuple[Outcome, ...]
    together: Outcome | None
    summary: Path
    ledger: Path

    @property
    def failed(self) -> int:
        return sum(one.state == "failed" for one in self.outcomes)


def carry_out_batch(
    prepared: PreparedBatch,
    track: Track = silent,
    notice: Notice = warnings.warn,
    tell: Tell = lambda outcome: None,
) -> BatchResult:
    """Collect once, then solve, write and verify request after request. `tell` hears of each as it ends."""
    request, salt = prepared.request, read_salt()
    busy = f"another batch is running in {request.out_dir}; wait for it to end, or name another --out-dir"
    with locked(lock_of(request.out_dir), busy):
        standing = obtain(
            prepared.opened,
            prepared.supply,
            prepared.alpha,
            request.collecting,
            keep=True,
            track=track,
            notice=notice,
        )
        together: Outcome | None = None
        if request.cumulative:
            outcomes, together = run_cumulatively(prepared, standing, salt, notice, tell)
        else:
            outcomes = run_independently(prepared, standing, salt, notice, tell)
        ledger = request.out_dir / LEDGER
        _note_down((*outcomes, *((together,) if together else ())), ledger, salt)
        summary = request.out_dir / SUMMARY
        write_summary(summary, prepared.opened.checkpoint.digest, outcomes, together)
    return BatchResult(outcomes, together, summary, ledger)


def _note_down(outcomes: Sequence[Outcome], path: Path, salt: bytes) -> None:
    """Enter every checkpoint that was written in the ledger, beside those that it knows."""
    ledger = read_ledgers([path], salt) if path.exists() else Ledger((), owner_of(salt))
    for one in outcomes:
        if (entry := one.entry) is not None:
            ledger = ledger.with_entry(entry)
    write_ledger(ledger, path)
