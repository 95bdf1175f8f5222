"""What an edit changed: of each tensor that differs between two checkpoints, by how much and in how many directions."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.progress import Track

SPECTRUM = 32
"""Singular values that are worked out of a change, the largest ones."""

_READABLE = ("F64", "F32", "F16", "BF16", "F8_E4M3")


@dataclass(frozen=True)
class Change:
    """One tensor that differs: ‖Δ‖ ÷ ‖W‖ in Frobenius norms, and of a matrix Δ its largest singular values, each
    divided by ‖W‖, in falling order."""

    tensor: str
    relative: float
    spectrum: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def changed_tensors(base: Checkpoint, edited: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors whose bytes differ, in order. Raises ChipError where the two are no versions of one model:
    their tensors have other names or shapes."""
    refuse_unlike(base, edited)
    return tuple(name for name in base.tensors if base.tensor_digests[name] != edited.tensor_digests[name])


def changes(base: Checkpoint, edited: Checkpoint, track: Track) -> tuple[Change, ...]:
    """Every tensor that differs. Matrices are read one at a time; of large ones the singular values are those of a
    randomised factorisation (Halko et al. 2011), drawn by a fixed seed."""
    names = [name for name in changed_tensors(base, edited) if base.tensors[name].dtype in _READABLE]
    return tuple(_change(base, edited, name) for name in track(names, "comparing tensors"))


def refuse_unlike(one: Checkpoint, other: Checkpoint) -> None:
    """Raise ChipError where two checkpoints are no versions of the same model."""
    kinds = one.config.get("model_type"), other.config.get("model_type")
    if kinds[0] != kinds[1]:
        raise ChipError(
            f"{one.directory} is of the family {kinds[0]!r} and {other.directory} of {kinds[1]!r}; "
            "give two versions of one model"
        )
    for name, tensor in one.tensors.items():
        if name not in other.tensors or other.tensors[name].shape != tensor.shape:
            raise ChipError(
                f"{one.directory} and {other.directory} are no versions of one model: {name} is not the same in both; "
                "give the model that was edited and what came of it"
            )


def difference(base: Checkpoint, edited: Checkpoint, name: str) -> tuple[Tensor, Tensor]:
    """What was added to a tensor, and the tensor before, both float32 in its own shape."""
    before, after = (torch.from_numpy(one.matrix(name).read().astype("float32")) for one in (base, edited))
    return after - before, before


def _change(base: Checkpoint, edited: Checkpoint, name: str) -> Change:
    added, before = difference(base, edited, name)
    size = float(before.norm()) or 1.0
    return Change(name, float(added.norm()) / size, tuple(one / size for one in _spectrum(added)))


def _spectrum(added: Tensor) -> Iterator[float]:
    if added.ndim != 2:
        return
    if min(added.shape) <= 8 * SPECTRUM:
        values = torch.linalg.svdvals(added)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, values, _ = torch.svd_lowrank(added, q=SPECTRUM + 8, niter=4)
    yield from (float(one) for one in values[:SPECTRUM])
