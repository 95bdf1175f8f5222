"""Which statistics serve a request: a file that fits, one that new records are added to, or a fresh collection."""

from dataclasses import dataclass
from pathlib import Path

from chip.collect.file import Provenance, load_statistics
from chip.collect.statistics import Statistics, Wanted
from chip.errors import ChipError


@dataclass(frozen=True)
class StatisticsSource:
    """Statistics that were found, and what is to be collected and added to them; where they are kept, and why.

    missing: places among the counted records of those that are still to be collected; all of them where nothing
    was found. wanted: what is collected of them. stranger: what the file at `path` holds that is nothing of the kind,
    neither of this model nor of these records; empty where it may be replaced.
    """

    path: Path
    wanted: Wanted
    found: Statistics | None
    missing: tuple[int, ...]
    notice: str = ""
    stranger: str = ""


def find_statistics(
    path: Path, provenance: Provenance, needed: Wanted, alpha: float, *, must_fit: bool
) -> StatisticsSource:
    """Statistics at `path` that fit the model and the data, or what is to be collected instead.

    Raises ChipError where the user named a file (`must_fit`) that belongs to something else.
    """
    everything = tuple(range(len(provenance.records)))
    if not path.exists():
        return StatisticsSource(path, needed, None, everything)
    try:
        found, theirs = load_statistics(path)
        difference = theirs.difference(provenance)
    except ChipError as problem:
        if must_fit:
            raise
        return StatisticsSource(path, needed, None, everything, f"statistics are collected afresh: {problem}")
    if difference is not None:
        if must_fit:
            raise ChipError(f"the statistics at {path} do not fit: {difference}; run `chip collect` again")
        notice = f"statistics are collected afresh: {difference}"
        stranger = "" if theirs.related(provenance) else difference
        return StatisticsSource(path, needed, None, everything, notice, stranger)
    both = found.wanted | needed
    if not needed <= found.wanted:
        notice = f"statistics are collected again, with the sites that {path.name} lacks"
        return StatisticsSource(path, both, None, everything, notice)
    if needed.pooled and found.alpha != alpha:
        notice = f"statistics are collected again: they hold alpha {found.alpha:g}, not {alpha:g}"
        return StatisticsSource(path, both, None, everything, notice)
    missing = theirs.lacking(provenance)
    notice = f"{len(missing)} new records are collected, beside those in {path.name}" if missing else ""
    return StatisticsSource(path, found.wanted, found, missing, notice)
