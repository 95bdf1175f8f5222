"""Collecting from a data set: groups are planned, encoded ahead, cut into chunks that fit, run and added up."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

import torch

from chip.collect.collector import Collector
from chip.collect.feeding import Feed, lost_workers_told
from chip.collect.grouping import EncodedGroup, chunks, plan_groups
from chip.collect.passes import ran_out_of_memory
from chip.collect.resume import Partial, PartialFile
from chip.collect.statistics import Statistics, Wanted
from chip.collect.team import Team
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.progress import Track, silent

Notice = Callable[[str], None]

BATCH_TOKENS = 1536
"""Tokens a pass where nobody chooses: larger batches are no faster on a CPU, and smaller ones are on no accelerator."""

WINDOW = 16
"""Groups that are looked at together, to put those of like length into one batch."""

_FEWEST_TOKENS = 64
"""Where passes of no more tokens than these do not fit, nothing will."""


def collect(
    loaded: LoadedModel,
    records: Sequence[Record],
    wanted: Wanted,
    *,
    alpha: float = 0.3,
    batch_tokens: int = BATCH_TOKENS,
    workers: int = 0,
    sketched: Mapping[str, int] | None = None,
    counted_images: Set[str] = frozenset(),
    partial: PartialFile | None = None,
    team: Team | None = None,
    track: Track = silent,
    doing: str = "collecting statistics",
    notice: Notice = warnings.warn,
) -> Statistics:
    """Statistics of `records`, each run once; `wanted` says what is kept of it.

    batch_tokens: tokens a forward pass, padding included; halved, with a notice, where memory runs out. workers:
    processes that encode ahead. sketched: by site, the rows of the sketch that stands for its second moment; all others
    are exact. counted_images: digests of images that the image moments hold already. partial: where
    progress is kept, and taken up again. In a team, the statistics are the whole where the first process is.
    """
    team = team or Team()
    collector = Collector(loaded, sorted({record.path for record in records}), wanted, alpha, sketched)
    groups = team.share(plan_groups(records, loaded.prompts.head, counted_images))
    done = 0
    if partial is not None and (kept := partial.read()) is not None:
        try:
            collector.restore(kept.states)
        except ChipError as problem:
            raise partial.damaged(problem) from problem
        done, batch_tokens = kept.windows, kept.batch_tokens
        notice(f"an interrupted collection goes on: {min(done * WINDOW, len(groups))} of {len(groups)} groups are done")
    feed = Feed(groups[done * WINDOW :], records, loaded.prompts, loaded.longest_sharing, workers=workers)
    with lost_workers_told():
        for number, window in enumerate(windows(track(feed, doing)), start=done + 1):
            batch_tokens = add_window(collector, window, records, batch_tokens, notice)
            if partial is not None and partial.due:
                partial.write(Partial(number, batch_tokens, collector.states()))
    collector.combine(team)
    return collector.statistics()


def windows(feed: Iterable[EncodedGroup]) -> Iterator[list[EncodedGroup]]:
    """The groups in order, WINDOW at a time."""
    window: list[EncodedGroup] = []
    for group in feed:
        window.append(group)
        if len(window) == WINDOW:
            yield window
            window = []
    if window:
        yield window


def add_window(
    collector: Collector, window: Sequence[EncodedGroup], records: Sequence[Record], budget: int, notice: Notice
) -> int:
    """Run a window in chunks, smaller ones from where memory runs out; returns the budget that was last enough.

    Raises ChipError where memory does not even hold the smallest pass.
    """
    left = list(chunks(window, budget))
    while left:
        chunk = left.pop(0)
        if _fits(collector, chunk, records, budget):
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        budget //= 2
        if budget < _FEWEST_TOKENS:
            line = records[chunk[0].group.records[0]].line
            raise ChipError(
                f"memory ran out with a record at a time (on line {line}): "
                "use a smaller --dtype, less --statistics-memory or another --device"
            )
        notice(f"memory ran out: passes of at most {budget} tokens from here on")
        left = list(chunks([group for one in (chunk, *left) for group in one], budget))
    return budget


def _fits(collector: Collector, chunk: Sequence[EncodedGroup], records: Sequence[Record], budget: int) -> bool:
    try:
        collector.add(chunk, records, budget)
    except RuntimeError as problem:
        if not ran_out_of_memory(problem):
            raise
        return False
    return True
