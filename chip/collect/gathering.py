"""Collecting from a data set: groups are planned, encoded ahead, cut into chunks that fit, run and added up."""

import warnings
from collections.abc import Callable, Iterator, Sequence, Set

import torch

from chip.collect.collector import Collector
from chip.collect.feeding import Feed
from chip.collect.grouping import EncodedGroup, chunks, plan_groups
from chip.collect.passes import ran_out_of_memory
from chip.collect.statistics import Statistics, Wanted
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.progress import Track, silent

Notice = Callable[[str], None]

BATCH_TOKENS = 2048
"""Tokens a pass where nobody chooses: larger batches are no faster on a CPU, and smaller ones are on no accelerator."""

WINDOW = 64
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
    counted_images: Set[str] = frozenset(),
    track: Track = silent,
    doing: str = "collecting statistics",
    notice: Notice = warnings.warn,
) -> Statistics:
    """Statistics of `records`, each run once; `wanted` says what is kept of it.

    batch_tokens: tokens a forward pass, padding included; halved, with a notice, where memory runs out. workers:
    processes that encode ahead. counted_images: digests of images that the image moments hold already.
    """
    nodes = sorted({record.path for record in records})
    collector = Collector(loaded, nodes, wanted, alpha)
    groups = plan_groups(records, loaded.prompts.head, counted_images)
    feed = Feed(groups, records, loaded.prompts, share=loaded.shares_prefix, workers=workers)
    for window in windows(track(feed, doing)):
        batch_tokens = add_window(collector, window, records, batch_tokens, notice)
    return collector.statistics()


def windows(feed: Iterator[EncodedGroup]) -> Iterator[list[EncodedGroup]]:
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
                f"memory ran out with a record at a time (on line {line}); use a smaller --dtype, --statistics-memory or "
                "another --device"
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
