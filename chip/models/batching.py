"""How the inputs of records are laid side by side in a batch, and how many rows an image takes there."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def _real_tiles(pixels: Tensor) -> Tensor:
    """How many tiles of each image (n, tiles, …) are not all zero: with zeros, an image of fewer tiles is filled up."""
    return pixels.flatten(2).ne(0).any(-1).sum(-1)


ROWS_OF: Mapping[str, Callable[[Tensor], Tensor]] = {
    "product": lambda sizes: sizes.prod(-1),
    "sum": lambda mask: mask.sum(-1),
    "tiles": _real_tiles,
    "alone": lambda pixels: torch.tensor([pixels.shape[1]]),
}
"""Ways of reading from a tensor how many rows each image takes, relative to others (`chip.models.families.Inputs`)."""


def image_lengths(is_image: Tensor, rows: Sequence[int]) -> list[int]:
    """The number of image tokens of each image: the lengths of their runs where every image is one run, in proportion
    to the images' rows otherwise. is_image: (S,); rows: one number an image."""
    starts = is_image & ~torch.cat([is_image.new_zeros(1), is_image[:-1]])
    if int(starts.sum()) == len(rows):
        runs = (starts.cumsum(0) * is_image).bincount(minlength=len(rows) + 1)
        return [int(length) for length in runs[1:]]
    return [int(is_image.sum()) * share // sum(rows) for share in rows]


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """The parts along axis 0; other axes in which they differ are filled with zeros at their ends."""
    sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]
    filled = []
    for part in parts:
        missing = [size - present for size, present in zip(sizes, part.shape[1:], strict=True)]
        padding = [width for size in reversed(missing) for width in (0, size)]
        filled.append(torch.nn.functional.pad(part, padding) if any(missing) else part)
    return torch.cat(filled)


def pad(values: Tensor, width: int, fill: int, left: bool) -> Tensor:
    """Values (S, …) filled up to (width, …), on the left or on the right."""
    missing = width - values.shape[0]
    others = [0, 0] * (values.dim() - 1)
    return torch.nn.functional.pad(values, [*others, *((missing, 0) if left else (0, missing))], value=fill)
