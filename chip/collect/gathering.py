"""Collecting from a data set: groups are planned, encoded ahead, cut into chunks that fit, run and added up."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain

from chip.collect.collector import Collector
from chip.collect.feeding import Feed, lost_workers_told
from chip.collect.fitting import Notice, run_fitting
from chip.collect.grouping import EncodedGroup, plan_groups
from chip.collect.resume import Partial, PartialFile
from chip.collect.statistics import Statistics, Wanted
from chip.collect.team import Team
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.progress import Track, silent

BATCH_TOKENS = 1536
"""Tokens a pass where nobody chooses: larger batches are no faster on a CPU, and smaller ones are on no accelerator."""

WINDOW = 16
"""Groups that are looked at together, to put those of like length into one batch."""


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
    team, sketched, done = team or Team(), dict(sketched or {}), 0
    groups = team.share(plan_groups(records, loaded.prompts.head, counted_images))
    nodes = sorted({record.path for record in records})
    kept = None if partial is None else partial.read(notice)
    collector = Collector(loaded, nodes, wanted, alpha, sketched if kept is None else kept.sketched)
    if partial is not None and kept is not None:
        done, batch_tokens, sketched = kept.windows, kept.batch_tokens, kept.sketched
        try:
            collector.restore(kept.states)
            if (done - 1) * WINDOW >= len(groups):
                raise ChipError("it is further than the collection goes")
        except ChipError as problem:
            raise partial.damaged(problem) from problem
        who = f"process {team.rank}: " if team.size > 1 else ""
        reached = f"{min(done * WINDOW, len(groups))} of {len(groups)} groups are done"
        notice(f"{who}an interrupted collection goes on: {reached}")

    def add(chunk: Sequence[EncodedGroup], tokens: int) -> None:
        collector.add(chunk, records, tokens)

    def line(group: EncodedGroup) -> str:
        return f" (on line {records[group.group.records[0]].line})"

    feed = Feed(groups[done * WINDOW :], records, loaded.prompts, loaded.longest_sharing, workers=workers)
    with lost_workers_told():
        for number, window in enumerate(windows(track(feed, doing)), start=done + 1):
            batch_tokens = run_fitting(window, batch_tokens, add, notice, line)
            if partial is not None and partial.due:
                _keep(partial, Partial(number, batch_tokens, sketched, collector.states()), notice)
    collector.combine(team)
    return collector.statistics() if team.leads else Statistics((), alpha, {}, {}, {})


def _keep(file: PartialFile, partial: Partial, notice: Notice) -> None:
    """Keep the progress; a collection that cannot is still worth finishing."""
    try:
        file.write(partial)
    except ChipError as problem:
        notice(f"progress is not kept: {problem}")


def windows(feed: Iterable[Sequence[EncodedGroup]]) -> Iterator[list[EncodedGroup]]:
    """The groups in order, those of WINDOW planned ones at a time."""
    window: list[Sequence[EncodedGroup]] = []
    for groups in feed:
        window.append(groups)
        if len(window) == WINDOW:
            yield list(chain.from_iterable(window))
            window = []
    if window:
        yield list(chain.from_iterable(window))
