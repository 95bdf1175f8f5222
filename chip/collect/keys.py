"""Keys: what enters (or leaves) a site at chosen tokens of a few records, kept token by token.

Only for what is few: a target's records, the images shown in their place, and the images they are compared with.
"""

import warnings
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chip.collect.fitting import Notice, run_fitting
from chip.collect.grouping import EncodedGroup, encode_group, in_order, plan_groups
from chip.collect.layout import Pass
from chip.collect.passes import run_chunk
from chip.collect.statistics import accumulator_dtype
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.models.sites import Site, Watcher

Take = Callable[[Tensor, Tensor], Tensor]


def encode_all(
    loaded: LoadedModel, records: Sequence[Record], counted_images: Set[str] = frozenset()
) -> list[EncodedGroup]:
    """Records encoded in groups that run together; for the few whose keys are taken, and taken again at every site."""
    plan = plan_groups(records, loaded.prompts.head, counted_images)
    return [one for group in plan for one in encode_group(group, records, loaded.prompts, loaded.longest_sharing)]


def answer_counts(groups: Sequence[EncodedGroup]) -> list[int]:
    """How many answer tokens each record has, in the order of the records."""
    return [len(one.answer_ids) for one in in_order(groups)]


def answer_inputs(
    loaded: LoadedModel,
    groups: Sequence[EncodedGroup],
    sites: Sequence[Site],
    batch_tokens: int,
    notice: Notice = warnings.warn,
) -> dict[str, Tensor]:
    """What enters each language site at the answer positions, (T, d) by site name, in the order of the records."""
    return _gather(loaded, groups, sites, batch_tokens, notice, lambda given, _: given)


def answer_outputs(
    loaded: LoadedModel,
    groups: Sequence[EncodedGroup],
    sites: Sequence[Site],
    batch_tokens: int,
    notice: Notice = warnings.warn,
) -> dict[str, Tensor]:
    """What leaves each language site (its bias included) at the answer positions, (T, D) by site name."""
    return _gather(loaded, groups, sites, batch_tokens, notice, lambda _, output: output)


def image_inputs(
    loaded: LoadedModel, records: Sequence[Record], site: Site, batch_tokens: int, notice: Notice = warnings.warn
) -> dict[str, Tensor]:
    """What enters a projector site for each distinct image that the records show: (tokens, d) by the image's digest."""
    first = {group.images: group.records[0] for group in reversed(plan_groups(records, 0)) if group.images}
    groups = encode_all(loaded, [records[position] for position in sorted(first.values())])
    found: dict[str, Tensor] = {}

    def watch(_: Site, one: Pass) -> Watcher:
        def keep(given: Tensor, output: Tensor) -> None:
            rows = finite(site.name, given.flatten(0, -2)).to(accumulator_dtype(given.device))
            if one.images is not None:
                parts = rows.split(one.images.sizes(len(rows), site.name))
                found.update({image.digest: part for image, part in zip(one.images.images, parts, strict=True)})

        return keep

    # What a chunk that does not fit has left is found again, and the same.
    run_fitting(groups, batch_tokens, lambda chunk, tokens: run_chunk(loaded, chunk, tokens, [site], watch), notice)
    return found


@dataclass
class Rows:
    """Rows at one site as they come, and the record that each belongs to."""

    rows: list[Tensor] = field(default_factory=list)
    records: list[Tensor] = field(default_factory=list)

    def in_order(self) -> Tensor:
        """All rows, put into the order of the records."""
        order = torch.cat(self.records).argsort(stable=True)
        return torch.cat(self.rows)[order.to(self.rows[0].device)]


def _gather(
    loaded: LoadedModel,
    groups: Sequence[EncodedGroup],
    sites: Sequence[Site],
    batch_tokens: int,
    notice: Notice,
    take: Take,
) -> dict[str, Tensor]:
    """Rows at the answer positions, put back into the order of the records."""
    found = {site.name: Rows() for site in sites}

    def attempt(chunk: Sequence[EncodedGroup], tokens: int) -> None:
        positions = torch.tensor([position for group in chunk for position in group.group.records])
        here = {site.name: Rows() for site in sites}

        def watch(site: Site, one: Pass) -> Watcher:
            def keep(given: Tensor, output: Tensor) -> None:
                rows = take(given, output).flatten(0, -2)
                here[site.name].rows.append(rows[one.answers.to(rows.device)])
                here[site.name].records.append(positions[one.answer_members.cpu()])

            return keep

        run_chunk(loaded, chunk, tokens, sites, watch)
        for name, one in here.items():
            found[name].rows += one.rows
            found[name].records += one.records

    run_fitting(groups, batch_tokens, attempt, notice)
    return {name: finite(name, one.in_order()).to(accumulator_dtype(one.rows[0].device)) for name, one in found.items()}


def finite(name: str, rows: Tensor) -> Tensor:
    if not rows.isfinite().all():
        raise ChipError(f"what passes through {name} for the target's records is not finite; try --dtype float32")
    return rows
