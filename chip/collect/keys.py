"""Keys: what enters (or leaves) a site at chosen tokens of a few records, kept token by token.

Only for what is few: a target's records, the images shown in their place, and the images they are compared with.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from chip.collect.passes import Watch, run
from chip.collect.statistics import accumulator_dtype
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.models.prompts import Encoded
from chip.models.sites import Site
from chip.records.digests import image_digest


def answer_inputs(
    loaded: LoadedModel, encoded: Sequence[Encoded], sites: Sequence[Site], size: int
) -> dict[str, Tensor]:
    """What enters each language site at the answer positions, (T, d) by site name, in the order of the records."""
    return _gather(loaded, encoded, sites, size, lambda given, _: given)


def answer_outputs(
    loaded: LoadedModel, encoded: Sequence[Encoded], sites: Sequence[Site], size: int
) -> dict[str, Tensor]:
    """What leaves each language site (its bias included) at the answer positions, (T, D) by site name."""
    return _gather(loaded, encoded, sites, size, lambda _, output: output)


def image_inputs(loaded: LoadedModel, records: Sequence[Record], site: Site, size: int) -> dict[str, Tensor]:
    """What enters a projector site for each distinct image that the records show: (tokens, d) by the image's digest."""
    found: dict[str, Tensor] = {}
    shown = [record for record in records if record.images]
    for group in loaded.prompts.batches(shown, size, lambda record: len(record.images)):
        encoded = [loaded.prompts.encode(record) for record in group]
        rows: list[Tensor] = []
        run(loaded, loaded.prompts.collate(encoded, loaded.device), {site: _keep(rows)})
        start, given = 0, _finite(site.name, rows[0]).to(accumulator_dtype(loaded.device))
        segments = list(image_segments(group, encoded))
        for digest, share in segments:
            length = len(given) * share // sum(share for _, share in segments)
            found.setdefault(digest, given[start : start + length])
            start += length
    return found


def image_segments(records: Sequence[Record], encoded: Sequence[Encoded]) -> Iterator[tuple[str, int]]:
    """The images of a batch in order: the digest of each and its share of the rows that pass a projector site."""
    for record, one in zip(records, encoded, strict=True):
        yield from zip(map(image_digest, record.images), one.image_rows, strict=True)


def _gather(
    loaded: LoadedModel,
    encoded: Sequence[Encoded],
    sites: Sequence[Site],
    size: int,
    take: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def watch(name: str, answer: Tensor) -> Watch:
        return lambda given, output: found[name].append(take(given, output)[answer])

    for group in loaded.prompts.batches(encoded, size, lambda one: len(one.image_rows)):
        batch = loaded.prompts.collate(group, loaded.device)
        run(loaded, batch, {site: watch(site.name, batch.answer) for site in sites})
    return {name: _finite(name, torch.cat(rows)).to(accumulator_dtype(loaded.device)) for name, rows in found.items()}


def _finite(name: str, rows: Tensor) -> Tensor:
    if not rows.isfinite().all():
        raise ChipError(f"what passes through {name} for the target's records is not finite; try --dtype float32")
    return rows


def _keep(rows: list[Tensor]) -> Watch:
    return lambda given, output: rows.append(given)
