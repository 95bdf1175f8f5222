"""Which statistics serve a request: a file that still fits, or what has to be collected, and why."""

from dataclasses import dataclass
from pathlib import Path

from chip.collect.file import Provenance, load_statistics
from chip.collect.statistics import Statistics, Wanted
from chip.errors import ChipError


@dataclass(frozen=True)
class StatisticsSource:
    """Statistics that were found and fit, or what is to be collected and where it is to be kept."""

    path: Path
    provenance: Provenance
    wanted: Wanted
    found: Statistics | None
    notice: str = ""


def find_statistics(
    path: Path, provenance: Provenance, needed: Wanted, alpha: float, *, must_fit: bool
) -> StatisticsSource:
    """Statistics at `path` that fit the model and the data, or what is to be collected instead.

    Raises ChipError where the user named a file (`must_fit`) that belongs to something else.
    """
    if not path.exists():
        return StatisticsSource(path, provenance, needed, None)
    try:
        found, theirs = load_statistics(path)
        difference = theirs.difference(provenance)
    except ChipError as problem:
        if must_fit:
            raise
        found, difference = None, str(problem)
    if difference is not None or found is None:
        if must_fit:
            raise ChipError(f"the statistics at {path} do not fit: {difference}; run `chip collect` again")
        return StatisticsSource(path, provenance, needed, None, f"statistics are collected afresh: {difference}")
    if not needed <= found.wanted:
        notice = f"statistics are collected again, with the sites that {path.name} lacks"
        return StatisticsSource(path, provenance, found.wanted | needed, None, notice)
    if needed.pooled and found.alpha != alpha:
        notice = f"statistics are collected again: they hold alpha {found.alpha:g}, not {alpha:g}"
        return StatisticsSource(path, provenance, found.wanted | needed, None, notice)
    return StatisticsSource(path, provenance, needed, found)
