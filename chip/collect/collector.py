"""The collector: runs groups of records through the model and keeps sums only, whatever the batches and the padding.

What flows through a site is added up on the model's device, without waiting for it; the host waits once a chunk, to
see that everything is finite. Only then is the chunk counted, so that one that fails leaves the sums as they were.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chip.collect.fitting import ran_out_of_memory
from chip.collect.grouping import EncodedGroup, Group
from chip.collect.layout import ImageRows, Pass, PrefixPass, SuffixPass, WholePass
from chip.collect.moments import ExactMoments
from chip.collect.passes import SEEING, run_chunk
from chip.collect.sketch import FrequentDirections
from chip.collect.state import State
from chip.collect.statistics import PooledSums, Statistics, Wanted, accumulator_dtype
from chip.collect.team import Team
from chip.errors import ChipError
from chip.hierarchy import NodePath, Record
from chip.kernels import node_sums, pooled_sums
from chip.models.loading import LoadedModel
from chip.models.sites import Site, Watcher


@dataclass
class _Chunk:
    """What one chunk has left so far: pooled activations (R, D) by site, and rows for the moments.

    images, texts: (R, 1), how many tokens of each kind every member has. faults: (R,), how many of the member's
    activations were not finite. carried: by site, the image and text sums of the prefixes, (G, 2, D).
    """

    images: Tensor
    texts: Tensor
    faults: Tensor
    pooled: dict[str, Tensor] = field(default_factory=dict)
    carried: dict[str, Tensor] = field(default_factory=dict)
    answer: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    image: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def mean(self, image: Tensor, text: Tensor, members: Tensor, alpha: float) -> Tensor:
        """Pooled activations (n, D) of members (n,) from the sums over their tokens, (n, D) each."""
        images, texts = (counts[members].to(image) for counts in (self.images, self.texts))
        share = torch.full_like(images, alpha).masked_fill(images == 0, 0).masked_fill(texts == 0, 1)
        return share * image / images.clamp(min=1) + (1 - share) * text / texts.clamp(min=1)


class Collector:
    """Accumulates statistics of records as they pass; `statistics()` yields them.

    Sums are kept in 64 bits on a CPU and 32 on an accelerator, on the device of the site that they belong to.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        nodes: Sequence[NodePath],
        wanted: Wanted,
        alpha: float,
        sketched: Mapping[str, int] | None = None,
    ) -> None:
        """sketched: by site, the rows of the sketch that stands for its second moment; all others are exact."""
        self.loaded, self.alpha = loaded, alpha
        self.nodes = {node: number for number, node in enumerate(nodes)}
        sites = {site.name: site for site in loaded.sites}
        self._sites = {name: sites[name] for name in (*wanted.pooled, *wanted.answer, *wanted.image)}
        self._pooled: dict[str, PooledSums] = {}
        for name in wanted.pooled:
            weight = sites[name].weight(loaded.model)
            self._pooled[name] = PooledSums.zeros(len(nodes), len(weight), weight.device)
        self._answer = {name: self._accumulator(name, sketched or {}) for name in wanted.answer}
        self._image = {name: self._accumulator(name, sketched or {}) for name in wanted.image}

    def add(self, groups: Sequence[EncodedGroup], records: Sequence[Record], budget: int) -> None:
        """Run a chunk of groups, whose positions mean `records`, and add what flows through the sites.

        budget: tokens a pass. Raises ChipError, naming the record's line, where an activation is not finite; then, and
        where memory runs out, nothing of the chunk was added.
        """
        members = [records[position] for group in groups for position in group.group.records]
        chunk = self._run(groups, budget)
        faults = chunk.faults.tolist()
        if any(faults):
            line = members[self._culprit(groups, faults, budget)].line
            raise ChipError(f"record on line {line}: its activations are not finite, so nothing can be learnt from it")
        try:
            self._count(chunk, members)
        except RuntimeError as problem:
            if not ran_out_of_memory(problem):
                raise
            # Half a chunk may be in the sums: it cannot be run again.
            raise ChipError("memory ran out while sums were added up: use less --statistics-memory") from problem

    def statistics(self) -> Statistics:
        """What has been added up so far, moved to the CPU."""
        pooled = {n: PooledSums(s.total.cpu(), s.absolute.cpu(), s.count.cpu()) for n, s in self._pooled.items()}
        answer, image = ({name: one.result() for name, one in m.items()} for m in (self._answer, self._image))
        return Statistics(tuple(self.nodes), self.alpha, pooled, answer, image)

    def states(self) -> dict[str, State]:
        """All that was added up, by what it is and the site's name, to be kept and taken up again."""
        found = {
            f"pooled/{name}": State({key: value.clone().cpu() for key, value in vars(sums).items()}, {})
            for name, sums in self._pooled.items()
        }
        return found | {name: moments.state() for name, moments in self._moments()}

    def restore(self, states: Mapping[str, State]) -> None:
        """Go on from what `states` gave, bit for bit. Raises ChipError where it is of another collection."""
        try:
            for name, sums in self._pooled.items():
                for key, value in vars(sums).items():
                    value.copy_(states[f"pooled/{name}"].tensors[key])
            for kind, held in (("answer", self._answer), ("image", self._image)):
                for name, moments in held.items():
                    held[name] = moments.restore(states[f"{kind}/{name}"], moments.device)
        except (KeyError, RuntimeError) as problem:
            raise ChipError(f"it is of another collection: {problem}") from problem

    def combine(self, team: Team) -> None:
        """Add up what all processes have, where the first of them is."""
        for sums in self._pooled.values():
            team.add_up(sums.total, sums.absolute, sums.count)
        for _, moments in self._moments():
            moments.combine(team)

    def _accumulator(self, name: str, sketched: Mapping[str, int]) -> ExactMoments | FrequentDirections:
        weight = self._sites[name].weight(self.loaded.model)
        inputs, device = weight.shape[1], weight.device
        if name in sketched:
            return FrequentDirections(inputs, sketched[name], accumulator_dtype(device), device)
        return ExactMoments(inputs, device)

    def _moments(self) -> Iterator[tuple[str, ExactMoments | FrequentDirections]]:
        for kind, held in (("answer", self._answer), ("image", self._image)):
            for name, moments in held.items():
                yield f"{kind}/{name}", moments

    def _run(self, groups: Sequence[EncodedGroup], budget: int) -> _Chunk:
        loaded, device = self.loaded, self.loaded.device
        encoded = [one for group in groups for one in group.encoded]
        images = torch.tensor([[loaded.prompts.image_tokens(one)] for one in encoded], device=device)
        texts = torch.tensor([[len(one)] for one in encoded], device=device) - images
        chunk = _Chunk(images.float(), texts.float(), torch.zeros(len(encoded), dtype=torch.int64, device=device))
        run_chunk(loaded, groups, budget, self._sites.values(), lambda site, one: self._watch(site, one, chunk))
        return chunk

    def _culprit(self, groups: Sequence[EncodedGroup], faults: Sequence[int], budget: int) -> int:
        """The member whose activations are not finite even where it runs by itself: attention gives what is masked no
        weight, but no weight times NaN is NaN, which spreads over all that runs in a row."""
        encoded = [one for group in groups for one in group.encoded]
        images = [group.group.images for group in groups for _ in group.encoded]
        faulty = [member for member, fault in enumerate(faults) if fault]
        for member in faulty:
            alone = EncodedGroup(Group((member,), images[member], frozenset(images[member])), (encoded[member],), 0)
            if any(self._run([alone], budget).faults.tolist()):
                return member
        return faulty[0]

    def _count(self, chunk: _Chunk, members: Sequence[Record]) -> None:
        """Add what a chunk has left to the sums."""
        nodes = torch.tensor([self.nodes[record.path] for record in members])
        showing = torch.tensor([bool(record.images) for record in members])
        belonging: dict[tuple[bool, torch.device], tuple[Tensor, Tensor]] = {}
        for name, sums in self._pooled.items():
            if name not in chunk.pooled:
                continue
            device, seeing = sums.total.device, self._sites[name].role in SEEING
            if (seeing, device) not in belonging:
                found = _belonging(nodes, showing if seeing else torch.ones_like(showing))
                belonging[seeing, device] = found[0].to(device), found[1].to(device)
            touched, belongs = belonging[seeing, device]
            node_sums(chunk.pooled[name].to(device), touched, belongs, sums.total, sums.absolute)
            sums.count[touched] += belongs.sum(1)
        for waiting, moments in ((chunk.answer, self._answer), (chunk.image, self._image)):
            for name, rows in waiting.items():
                moments[name].add(torch.cat(rows))

    def _watch(self, site: Site, one: Pass, chunk: _Chunk) -> Watcher | None:
        """What looks at a site during a pass; nobody where a prefix, which has no answers, is all that passes."""
        name = site.name
        if isinstance(one, PrefixPass) and site.role not in SEEING and name not in self._pooled:
            return None

        def watch(given: Tensor, output: Tensor) -> None:
            if site.role in SEEING:
                self._see(name, one.images, given.flatten(0, -2), output.flatten(0, -2), chunk)
                return
            if name in self._pooled:
                self._pool(name, one, output, chunk)
            if name in self._answer:
                rows = given.flatten(0, -2)[one.answers.to(given.device)]
                _note_faults(rows, one.answer_members, chunk)
                chunk.answer[name].append(rows)

        return watch

    def _pool(self, name: str, one: Pass, output: Tensor, chunk: _Chunk) -> None:
        real = None if one.real is None else one.real.to(output.device)
        sums = pooled_sums(output, one.weights.to(output.device), real)
        if isinstance(one, PrefixPass):
            chunk.carried[name] = sums
        elif isinstance(one, WholePass):
            self._keep(name, chunk.mean(sums[:, 0], sums[:, 1], one.members, self.alpha), one.members, chunk)
        elif isinstance(one, SuffixPass):
            image, text = chunk.carried[name][one.prefixes.to(output.device)].unbind(1)
            text = text + sums.flatten(0, 1)[one.picks.to(output.device)]
            self._keep(name, chunk.mean(image, text, one.members, self.alpha), one.members, chunk)

    def _see(self, name: str, images: ImageRows | None, given: Tensor, output: Tensor, chunk: _Chunk) -> None:
        if images is None:
            return
        if name in self._pooled:
            means = images.means(output, name)[images.sources.to(output.device)]
            self._keep(name, means, images.members, chunk)
        if name in self._image:
            parts = zip(images.images, given.split(images.sizes(len(given), name)), strict=True)
            for image, rows in ((image, rows) for image, rows in parts if image.counts):
                chunk.faults[image.member] += (~rows.isfinite().all()).to(chunk.faults)
                chunk.image[name].append(rows)

    def _keep(self, name: str, pooled: Tensor, members: Tensor, chunk: _Chunk) -> None:
        """Note down the pooled activations (n, D) of members at a site."""
        _note_faults(pooled, members, chunk)
        if name not in chunk.pooled:
            chunk.pooled[name] = pooled.new_zeros(len(chunk.faults), pooled.shape[-1])
        chunk.pooled[name].index_copy_(0, members.to(pooled.device), pooled)


def _belonging(nodes: Tensor, reached: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct nodes (U,) of the members that reach a site, and which members (U, R) belong to each of them."""
    touched = nodes[reached].unique()
    return touched, (nodes == touched[:, None]) & reached


def _note_faults(rows: Tensor, members: Tensor, chunk: _Chunk) -> None:
    faults = (~rows.isfinite().all(-1)).long()
    chunk.faults.index_add_(0, members, faults.to(chunk.faults.device))
