"""Statistics for a use case: which records they count, what collecting them takes, and how they are obtained and kept.

An edit collects what it needs on its way; `chip collect` collects what any edit may need.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chip.collect import Statistics, added, collect, sketched_rows
from chip.collect.budget import MOST_ROWS, MemoryPlan, in_words, plan_memory
from chip.collect.file import Provenance, save_statistics
from chip.collect.fitting import Notice
from chip.collect.memory import choose_batch_tokens, free_memory, moment_budget
from chip.collect.resume import PartialFile, remove_leftovers
from chip.collect.reuse import StatisticsSource
from chip.collect.statistics import accumulator_dtype
from chip.collect.team import Team
from chip.errors import ChipError
from chip.hierarchy import Hierarchy
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel
from chip.progress import Track, silent
from chip.records.digests import few_per_node, images_of, record_digest
from chip.settings import CollectSettings

_MOST_WORKERS = 8


@dataclass(frozen=True)
class CountedRecords:
    """The records that statistics count, by their places in the hierarchy, and what they belong to."""

    positions: tuple[int, ...]
    provenance: Provenance


@dataclass(frozen=True)
class Collection:
    """What collecting will take: tokens a pass, processes that encode ahead, rows of the sketches by site; and the
    second moments in words."""

    batch_tokens: int
    workers: int
    sketched: dict[str, int]
    moments: str

    @property
    def described(self) -> str:
        """One line for the plan."""
        several = "es" * (self.workers > 1)
        workers = f", {self.workers} process{several} encoding ahead" if self.workers else ""
        return f"second moments: {self.moments}; {self.batch_tokens} tokens a pass{workers}"


def counted_records(
    hierarchy: Hierarchy, checkpoint: Checkpoint, loaded: LoadedModel, settings: CollectSettings
) -> CountedRecords:
    """Which records count, with the digests that tie statistics to them and to the model."""
    if not loaded.prompts.sees and (seen := next((one for one in hierarchy.records if one.images), None)):
        raise ChipError(f"record on line {seen.line} shows an image, but this model takes text only")
    digests = tuple(map(record_digest, hierarchy.records))
    positions = few_per_node(hierarchy, digests, settings.max_records_per_node)
    provenance = Provenance(
        model=checkpoint.digest,
        dtype=str(loaded.dtype),
        prompts=checkpoint.prompts_digest,
        levels=hierarchy.levels,
        records=tuple(digests[position] for position in positions),
        most_per_node=settings.max_records_per_node,
    )
    return CountedRecords(positions, provenance)


def plan_collection(
    loaded: LoadedModel,
    hierarchy: Hierarchy,
    counted: CountedRecords,
    source: StatisticsSource,
    settings: CollectSettings,
) -> Collection:
    """Choose what the user left open. Raises ChipError where the sums do not fit in what they may take."""
    tokens = settings.batch_tokens or choose_batch_tokens(loaded)
    workers = _workers(loaded, settings)
    if source.found is not None and not source.missing:
        return Collection(tokens, workers, sketched_rows(source.found), f"as in {source.path.name}")
    pooled = _pooled_sums(loaded, hierarchy, counted, source)
    if source.found is not None:
        return Collection(tokens, workers, _sketched_beside(loaded, source.found, settings), f"as in the file{pooled}")
    names = (*source.wanted.answer, *source.wanted.image)
    memory = _plan_memory(loaded, names, settings)
    sketched = {name: rows for name, rows in zip(names, memory.rows, strict=True) if rows is not None}
    return Collection(tokens, workers, sketched, memory.described + pooled)


def _pooled_sums(loaded: LoadedModel, hierarchy: Hierarchy, counted: CountedRecords, source: StatisticsSource) -> str:
    """What pooled sums will take, in words. Raises ChipError where that is more than there is."""
    sites = {site.name: site for site in loaded.sites}
    nodes = len({hierarchy.paths[counted.positions[place]] for place in source.missing})
    outputs = sum(sites[name].widths(loaded.model)[1] for name in source.wanted.pooled)
    size, free = 2 * nodes * outputs * accumulator_dtype(loaded.device).itemsize, free_memory(loaded.device)
    if size > free:
        raise ChipError(
            f"the pooled sums of {nodes} nodes at {len(source.wanted.pooled)} sites take {in_words(size)}, and "
            f"{in_words(free)} are free; the default method needs none (chip collect --sites none), or choose fewer"
        )
    return f"; pooled sums of {nodes} nodes: {in_words(size)}" if outputs else ""


def _plan_memory(loaded: LoadedModel, names: Sequence[str], settings: CollectSettings) -> MemoryPlan:
    sites = {site.name: site for site in loaded.sites}
    widths = [sites[name].widths(loaded.model)[0] for name in names]
    budget = settings.statistics_bytes or moment_budget(loaded.device)
    return plan_memory(widths, budget, accumulator_dtype(loaded.device))


def _sketched_beside(loaded: LoadedModel, found: Statistics, settings: CollectSettings) -> dict[str, int]:
    """The rows of the sketches that new records are added to: as many as they have, and as many as are planned today,
    since a sketch of few rows may stand for few records."""
    held, sites = sketched_rows(found), {site.name: site for site in loaded.sites}
    planned = dict(zip(held, _plan_memory(loaded, tuple(held), settings).rows, strict=True))
    widest = {name: min(sites[name].widths(loaded.model)[0] // 2, MOST_ROWS) for name in held}
    return {name: max(rows, planned[name] or widest[name], 1) for name, rows in held.items()}


def obtain_statistics(
    loaded: LoadedModel,
    hierarchy: Hierarchy,
    counted: CountedRecords,
    source: StatisticsSource,
    collection: Collection,
    *,
    alpha: float,
    settings: CollectSettings,
    keep: bool,
    team: Team | None = None,
    track: Track = silent,
    notice: Notice = warnings.warn,
) -> Statistics:
    """The statistics that a source promises: found, or collected, or found and added to; kept in its file if `keep`.

    In a team the first process alone has them whole, and writes them.
    """
    team = team or Team()
    if source.found is not None and not source.missing:
        if keep and team.leads:
            remove_leftovers(source.path)
        return source.found
    records = [hierarchy.records[position] for position in counted.positions]
    places = set(source.missing)
    missing = [records[place] for place in source.missing]
    known = [record for place, record in enumerate(records) if place not in places]
    partial = _partial(counted.provenance, source, collection, alpha, settings, team) if keep else None
    collected = collect(
        loaded,
        missing,
        source.wanted,
        alpha=alpha if source.found is None else source.found.alpha,
        batch_tokens=collection.batch_tokens,
        workers=collection.workers,
        sketched=collection.sketched,
        counted_images=images_of(known),
        partial=partial,
        team=team,
        track=track,
        notice=notice,
    )
    team.wait()
    if not team.leads:
        return collected
    whole = collected if source.found is None else added(source.found, collected, collection.sketched)
    if keep:
        save_statistics(whole, counted.provenance, source.path)
        remove_leftovers(source.path)
    return whole


def default_statistics(model: str, out: Path) -> Path:
    """Beside the output, named after the model, so that every later request on the model finds it."""
    name = Path(model).resolve().name if Path(model).is_dir() else Path(model).name
    return out.parent / f"{name}.statistics.safetensors"


def _workers(loaded: LoadedModel, settings: CollectSettings) -> int:
    """On an accelerator, all processors but one; beside a model that runs on them itself, a quarter."""
    if settings.workers is not None:
        return settings.workers
    processors = os.cpu_count() or 1
    free = processors // 4 if loaded.device.type == "cpu" else processors - 1
    return min(free, _MOST_WORKERS) if loaded.prompts.sees else 0


def _partial(
    provenance: Provenance,
    source: StatisticsSource,
    collection: Collection,
    alpha: float,
    settings: CollectSettings,
    team: Team,
) -> PartialFile:
    """Where this process's progress is kept, and what it is progress of."""
    content = [
        provenance.digest,
        asdict(source.wanted),
        source.missing,
        alpha,
        settings.batch_tokens,
        settings.statistics_memory,
        [team.rank, team.size],
        # What the memory that was free had room for may change; processes must nevertheless agree on it.
        collection.sketched if team.size > 1 else None,
    ]
    identity = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    number = f"-{team.rank}-of-{team.size}" if team.size > 1 else ""
    return PartialFile(source.path.with_name(f".{source.path.name}.partial{number}"), identity, settings.save_every)
