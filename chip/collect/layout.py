"""How encoded groups become forward passes, and which token of a pass belongs to which record.

A group whose records begin alike takes two passes: its *prefix* runs once and leaves its keys and values behind; what
follows, the *suffixes* of its records, runs packed into rows after it, where each token sees the prefix and its own
record alone. Attention being causal, neither can tell that it was not run whole. Every other record runs *whole*.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from chip.collect.grouping import EncodedGroup
from chip.errors import ChipError
from chip.models.prompts import Encoded, Prompts

Row = TypeVar("Row", "_Whole", "_Packed")


@dataclass(frozen=True)
class Shown:
    """An image of a pass: its digest, its share of the rows, the first member that shows it, whether it counts in the
    image moments."""

    digest: str
    share: int
    member: int
    counts: bool


@dataclass(frozen=True)
class ImageRows:
    """Whose the rows are that pass the projector and vision sites.

    They stand in the order of the images, and an image has them in proportion to its share. `owners`: for each owner,
    how many of the images it has. sources, members: (m,), whose mean is the pooled activation of which member.
    """

    images: tuple[Shown, ...]
    owners: tuple[int, ...]
    sources: Tensor
    members: Tensor

    def sizes(self, rows: int, site: str) -> list[int]:
        """How many of a site's rows each image has. Raises ChipError where they do not divide by the shares."""
        whole = sum(image.share for image in self.images)
        if any(rows * image.share % whole for image in self.images):
            raise ChipError(f"{rows} rows pass through {site}, which do not divide among the images of the pass")
        return [rows * image.share // whole for image in self.images]

    def means(self, rows: Tensor, site: str) -> Tensor:
        """The mean of each owner's rows, (owners, D), of rows (R, D)."""
        sizes, ends = self.sizes(len(rows), site), list(accumulate(self.owners))
        owned = [sum(sizes[end - count : end]) for end, count in zip(ends, self.owners, strict=True)]
        return torch.stack([part.mean(0) for part in rows.split(owned)])


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What all passes have: B rows of S tokens, and whose these are; all tensors on the model's device.

    weights: (B, K, S) of zeros and ones, the tokens that each of a row's K sums is taken over. real: (B, S), the
    tokens that are no padding; None where all are. *Members* are the records of a chunk, numbered in the order of its
    groups. answers, answer_members: (T,), the positions among B · S that predict answer tokens, and whose they are.
    images: the rows of image tokens; None where the pass shows no image.
    """

    inputs: dict[str, Tensor]
    weights: Tensor
    real: Tensor | None
    answers: Tensor
    answer_members: Tensor
    images: ImageRows | None = None


@dataclass(frozen=True, kw_only=True)
class WholePass(Pass):
    """A record a row; the K = 2 sums are over its image tokens and over its text tokens. members: (B,)."""

    members: Tensor


@dataclass(frozen=True, kw_only=True)
class PrefixPass(Pass):
    """A group a row, without answers; sums as in a whole pass, to be carried to the group's suffixes."""


@dataclass(frozen=True, kw_only=True)
class SuffixPass(Pass):
    """Several records a row, text only; K sums, one a record.

    picks, members, prefixes: (n,), the sums among B · K that are real, whose each is, and the row of the prefix pass
    that it follows. rows: (B,) the row of the prefix pass that each row follows, as plain numbers.
    """

    picks: Tensor
    members: Tensor
    prefixes: Tensor
    rows: tuple[int, ...]


def lay_out(
    groups: Sequence[EncodedGroup], prompts: Prompts, device: torch.device, budget: int, longest: int = sys.maxsize
) -> Iterator[Pass]:
    """The passes of a chunk: the prefixes, then the suffixes that follow them, then the records that run whole.

    budget: tokens a pass, padding included, where it holds more than one row. longest: a record of more tokens runs
    by itself.
    """
    whole: list[_Whole] = []
    sharing: list[tuple[EncodedGroup, range]] = []
    count = 0
    for group in groups:
        members = range(count, count + len(group.encoded))
        count = members.stop
        if group.shared:
            sharing.append((group, members))
        else:
            whole += _alone(group, members)
    if sharing:
        yield _prefix_pass(sharing, prompts, device)
        packed = [
            row for number, (group, members) in enumerate(sharing) for row in _packed(number, group, members, budget)
        ]
        width = max(group.shared for group, _ in sharing)
        for suffixes in _budgeted(packed, budget):
            yield _suffix_pass(suffixes, width, prompts.padding, device)
    for records in _budgeted([row for row in whole if row.length <= longest], budget):
        yield _whole_pass(records, prompts, device)
    for row in whole:
        if row.length > longest:
            yield _whole_pass([row], prompts, device)


@dataclass(frozen=True)
class _Whole:
    """A record that runs whole, and those of its images that count in the image moments."""

    member: int
    encoded: Encoded
    images: tuple[str, ...]
    fresh: frozenset[str]

    @property
    def length(self) -> int:
        return len(self.encoded)


@dataclass(frozen=True)
class _Packed:
    """Suffixes that run in one row: the prefix's row and length, and each member with its whole encoding."""

    prefix: int
    shared: int
    packed: tuple[tuple[int, Encoded], ...]

    @property
    def length(self) -> int:
        return sum(len(encoded) - self.shared for _, encoded in self.packed)


def _alone(group: EncodedGroup, members: range) -> Iterator[_Whole]:
    """The records of a group that shares nothing; its images count with the first of them."""
    images = group.group.images
    for member, encoded in zip(members, group.encoded, strict=True):
        yield _Whole(member, encoded, images, group.group.fresh if member == members.start else frozenset())


def _packed(prefix: int, group: EncodedGroup, members: range, budget: int) -> Iterator[_Packed]:
    """A group's suffixes in rows of about the prefix's length: fewer rows copy the prefix's keys and values less often,
    and longer ones waste attention on tokens that may not see each other."""
    room = min(group.shared, budget)
    row: list[tuple[int, Encoded]] = []
    used = 0
    for member, encoded in zip(members, group.encoded, strict=True):
        length = len(encoded) - group.shared
        if row and used + length > room:
            yield _Packed(prefix, group.shared, tuple(row))
            row, used = [], 0
        row.append((member, encoded))
        used += length
    yield _Packed(prefix, group.shared, tuple(row))


def _budgeted(rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Rows of like length together, as many as stay within the budget when they are padded, and at least one."""
    left = sorted(rows, key=lambda row: -row.length)
    while left:
        size = max(1, budget // left[0].length)
        yield left[:size]
        left = left[size:]


def _prefix_pass(sharing: Sequence[tuple[EncodedGroup, range]], prompts: Prompts, device: torch.device) -> PrefixPass:
    batch = prompts.collate([group.encoded[0].cut(group.shared) for group, _ in sharing], device)
    nobody = torch.zeros(0, dtype=torch.int64, device=device)
    owners = [(group.encoded[0], group.group.images, group.group.fresh, members) for group, members in sharing]
    return PrefixPass(
        inputs=batch.inputs,
        weights=torch.stack([batch.image, batch.text], 1),
        real=batch.real,
        answers=nobody,
        answer_members=nobody,
        images=_image_rows(owners, device),
    )


def _whole_pass(rows: Sequence[_Whole], prompts: Prompts, device: torch.device) -> WholePass:
    batch = prompts.collate([row.encoded for row in rows], device)
    width = batch.image.shape[1]
    answers: list[int] = []
    answer_members: list[int] = []
    for number, row in enumerate(rows):
        answers += range(number * width + row.encoded.answer_start - 1, number * width + len(row.encoded) - 1)
        answer_members += [row.member] * len(row.encoded.answer_ids)
    owners = [(row.encoded, row.images, row.fresh, range(row.member, row.member + 1)) for row in rows]
    return WholePass(
        inputs=batch.inputs,
        weights=torch.stack([batch.image, batch.text], 1),
        real=batch.real,
        answers=_index(answers, device),
        answer_members=_index(answer_members, device),
        members=_index([row.member for row in rows], device),
        images=_image_rows(owners, device),
    )


def _image_rows(
    owners: Sequence[tuple[Encoded, tuple[str, ...], frozenset[str], range]], device: torch.device
) -> ImageRows | None:
    """owners: for each its encoding, the digests of its images, those of them that count, and its members."""
    showing = [owner for owner in owners if owner[1]]
    if not showing:
        return None
    images = []
    for encoded, digests, fresh, members in showing:
        left = set(fresh)
        for digest, share in zip(digests, encoded.image_rows, strict=True):
            images.append(Shown(digest, share, members.start, digest in left))
            left.discard(digest)
    sources = [source for source, (_, _, _, members) in enumerate(showing) for _ in members]
    numbers = [member for _, _, _, members in showing for member in members]
    return ImageRows(
        tuple(images), tuple(len(one[1]) for one in showing), _index(sources, device), _index(numbers, device)
    )


def _suffix_pass(rows: Sequence[_Packed], prefix: int, padding: int, device: torch.device) -> SuffixPass:
    """prefix: the padded length of the prefixes in the cache."""
    width, slots = max(row.length for row in rows), max(len(row.packed) for row in rows)
    ids = torch.full((len(rows), width), padding)
    slot = torch.full((len(rows), width), -1)
    positions = torch.zeros(len(rows), width, dtype=torch.int64)
    picks: list[int] = []
    members: list[int] = []
    prefixes: list[int] = []
    answers: list[int] = []
    answer_members: list[int] = []
    for number, row in enumerate(rows):
        start = 0
        for place, (member, encoded) in enumerate(row.packed):
            stop = start + len(encoded) - row.shared
            ids[number, start:stop] = encoded.sequence["input_ids"][row.shared :]
            slot[number, start:stop] = place
            positions[number, start:stop] = torch.arange(row.shared, len(encoded))
            first = number * width + start - row.shared
            answers += range(first + encoded.answer_start - 1, first + len(encoded) - 1)
            answer_members += [member] * len(encoded.answer_ids)
            picks.append(number * slots + place)
            members.append(member)
            prefixes.append(row.prefix)
            start = stop
    visible = _visible(slot, torch.tensor([row.shared for row in rows]), prefix)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": visible}
    return SuffixPass(
        inputs={key: value.to(device) for key, value in inputs.items()},
        weights=(slot[:, None] == torch.arange(slots)[:, None]).to(device),
        real=None if bool((slot >= 0).all()) else (slot >= 0).to(device),
        answers=_index(answers, device),
        answer_members=_index(answer_members, device),
        picks=_index(picks, device),
        members=_index(members, device),
        prefixes=_index(prefixes, device),
        rows=tuple(row.prefix for row in rows),
    )


def _visible(slot: Tensor, shared: Tensor, prefix: int) -> Tensor:
    """Which keys each packed token sees, (B, 1, S, P + S): its row's prefix, and its own record up to itself.

    slot: (B, S), the record of each token within its row. Padding, −1, goes by the same rule, so that no row of the
    mask is empty: attention to nothing is not defined.
    """
    rows, width = slot.shape
    before = (torch.arange(prefix) < shared[:, None])[:, None].expand(rows, width, prefix)
    own = (slot[:, :, None] == slot[:, None]) & torch.ones(width, width, dtype=torch.bool).tril()
    return torch.cat([before, own], -1)[:, None]


def _index(numbers: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)
