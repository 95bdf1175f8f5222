"""The collector: runs records through the model once and keeps sums only, whatever the batch size and padding."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chip.collect.keys import image_segments
from chip.collect.passes import IMAGE_ROLES, Watch, run
from chip.collect.statistics import Moments, PooledSums, Statistics, Wanted
from chip.errors import ChipError
from chip.hierarchy import NodePath, Record
from chip.kernels import pooled_sums, second_moment
from chip.models.loading import LoadedModel
from chip.models.prompts import Batch, Encoded
from chip.models.sites import Site
from chip.progress import Track, silent


class Collector:
    """Accumulates statistics of records as they pass; `statistics()` yields them.

    Every record is run once. Sums are kept in 64 bits on a CPU and 32 on an accelerator, on the model's device.
    """

    def __init__(self, loaded: LoadedModel, nodes: Sequence[NodePath], wanted: Wanted, alpha: float) -> None:
        self.loaded, self.alpha = loaded, alpha
        self.nodes = {node: number for number, node in enumerate(nodes)}
        sites = {site.name: site for site in loaded.sites}
        self._sites = {name: sites[name] for name in (*wanted.pooled, *wanted.answer, *wanted.image)}
        widths = {name: site.widths(loaded.model) for name, site in self._sites.items()}
        device = loaded.device
        self._pooled = {n: PooledSums.zeros(len(nodes), widths[n][1], device) for n in wanted.pooled}
        self._answer = {n: Moments.zeros(widths[n][0], device) for n in wanted.answer}
        self._image = {n: Moments.zeros(widths[n][0], device) for n in wanted.image}
        self._seen_images: set[str] = set()

    def add(self, records: Sequence[Record]) -> None:
        """Run one batch of records through the model and add what flows through the sites.

        Raises ChipError, naming the record's line, where an activation is not finite.
        """
        loaded = self.loaded
        encoded = [loaded.prompts.encode(record) for record in records]
        batch = loaded.prompts.collate(encoded, loaded.device)
        finite = torch.ones(len(records), dtype=torch.bool, device=loaded.device)
        nodes = torch.tensor([self.nodes[record.path] for record in records], device=loaded.device)
        fresh = self._fresh_images(records, encoded) if self._image else None
        watches: dict[Site, Watch] = {
            site: self._watch(name, site, batch, nodes, finite, fresh) for name, site in self._sites.items()
        }
        run(loaded, batch, watches)
        if not finite.all():
            bad = records[int((~finite).nonzero()[0])]
            raise ChipError(
                f"record on line {bad.line}: its activations are not finite, so nothing can be learnt from it"
            )

    def statistics(self) -> Statistics:
        """What has been added up so far, moved to the CPU."""
        pooled = {n: PooledSums(s.total.cpu(), s.absolute.cpu(), s.count.cpu()) for n, s in self._pooled.items()}
        answer = {name: _on_cpu(moments) for name, moments in self._answer.items()}
        image = {name: _on_cpu(moments) for name, moments in self._image.items()}
        return Statistics(tuple(self.nodes), self.alpha, pooled, answer, image)

    def _watch(self, name: str, site: Site, batch: Batch, nodes: Tensor, finite: Tensor, fresh: Tensor | None) -> Watch:
        def watch(given: Tensor, output: Tensor) -> None:
            if name in self._pooled:
                self._pool(name, site, output, batch, nodes, finite)
            if name in self._answer:
                finite.logical_and_((given.isfinite().all(-1) | ~batch.answer).all(-1))
                self._answer[name] = _add(self._answer[name], given, batch.answer)
            if name in self._image and fresh is not None:
                counts = batch.rows_of_records(len(given))
                owners = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
                finite[owners[~given.isfinite().all(-1)]] = False
                shares = fresh[:, 1] * len(given) // fresh[:, 1].sum()
                self._image[name] = _add(self._image[name], given, fresh[:, 0].bool().repeat_interleave(shares))

        return watch

    def _pool(self, name: str, site: Site, output: Tensor, batch: Batch, nodes: Tensor, finite: Tensor) -> None:
        sums, image, text = self._pooled[name], batch.image, batch.text
        rows = torch.ones_like(finite)
        if site.role in IMAGE_ROLES:
            counts = batch.rows_of_records(len(output))
            rows = counts > 0
            counts = counts[rows]
            image = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
            spread = output.new_zeros(*image.shape, output.shape[-1])
            spread[image] = output
            output, text = spread, torch.zeros_like(image)
        pooled = pooled_sums(output, image, text, nodes[rows], self.alpha, sums.total, sums.absolute)
        sums.count.index_add_(0, nodes[rows], torch.ones_like(nodes[rows]))
        finite[rows] &= pooled.isfinite().all(-1)

    def _fresh_images(self, records: Sequence[Record], encoded: Sequence[Encoded]) -> Tensor:
        """By image of the batch, (I, 2): whether it was not counted before, and its share of the rows."""
        fresh = []
        for digest, share in image_segments(records, encoded):
            fresh.append([int(digest not in self._seen_images), share])
            self._seen_images.add(digest)
        return torch.tensor(fresh, device=self.loaded.device).view(-1, 2)


def collect(
    loaded: LoadedModel,
    records: Sequence[Record],
    wanted: Wanted,
    *,
    alpha: float = 0.3,
    batch_size: int = 16,
    track: Track = silent,
    doing: str = "collecting statistics",
) -> Statistics:
    """Statistics of `records`, each run once; `wanted` says what is kept of it."""
    nodes = sorted({record.path for record in records})
    collector = Collector(loaded, nodes, wanted, alpha)
    for batch in track(loaded.prompts.batches(records, batch_size, lambda record: len(record.images)), doing):
        collector.add(batch)
    return collector.statistics()


def _add(moments: Moments, given: Tensor, mask: Tensor) -> Moments:
    return replace(moments, count=moments.count + second_moment(given, mask, moments.outer, moments.total))


def _on_cpu(moments: Moments) -> Moments:
    return Moments(moments.outer.double().cpu(), moments.total.double().cpu(), moments.count)
