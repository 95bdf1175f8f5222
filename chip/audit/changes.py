"""What an edit changed: of each tensor that differs between two checkpoints, by how much and in how many directions."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.quantised import scale_names
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
    """Names of the tensors whose bytes differ, or those of their fp8 scales, in the order of the base. Raises ChipError
    where the two are no versions of one model: their tensors have other names or shapes."""
    refuse_unlike(base, edited)
    both = [name for name in _weights(base) if name in edited.tensors]
    return tuple(name for name in both if _digests(base, name) != _digests(edited, name))


def changes(base: Checkpoint, edited: Checkpoint, track: Track) -> tuple[Change, ...]:
    """Every tensor that differs. Matrices are read one at a time; of large ones the singular values are those of a
    randomised factorisation (Halko et al. 2011), drawn by a fixed seed."""
    names = [name for name in changed_tensors(base, edited) if base.tensors[name].dtype in _READABLE]
    return tuple(_change(base, edited, name) for name in track(names, "comparing tensors"))


def refuse_unlike(one: Checkpoint, other: Checkpoint) -> None:
    """Raise ChipError where two checkpoints are no versions of the same model: of another family, or with tensors that
    the other has not, or has in another shape.

    How they store them may differ: scales of fp8 weights are passed over, and so is an output layer that only one of
    them stores, where its config ties it to the embedding and it is that embedding, to the bit.
    """
    kinds = one.config.get("model_type"), other.config.get("model_type")
    if kinds[0] != kinds[1]:
        raise ChipError(
            f"{one.directory} is of the family {kinds[0]!r} and {other.directory} of {kinds[1]!r}; "
            "give two versions of one model"
        )
    for holder, lacking in ((one, other), (other, one)):
        for name in _weights(holder):
            if name in lacking.tensors:
                alike = holder.tensors[name].shape == lacking.tensors[name].shape
                said = f"{name} is not the same in both"
            else:
                alike = _is_tied(holder, name)
                said = f"only {holder.directory} holds {name}"
            if not alike:
                raise ChipError(
                    f"{one.directory} and {other.directory} are no versions of one model: {said}; "
                    "give the model that was edited and what came of it"
                )


def _weights(checkpoint: Checkpoint) -> list[str]:
    """Names of its tensors, in order, but for the scales of others."""
    scales = {scale for name in checkpoint.tensors for scale in _scales(checkpoint, name)}
    return [name for name in checkpoint.tensors if name not in scales]


def _scales(checkpoint: Checkpoint, name: str) -> list[str]:
    if checkpoint.tensors[name].dtype != "F8_E4M3":
        return []
    return [scale for scale in scale_names(name) if scale in checkpoint.tensors]


def _digests(checkpoint: Checkpoint, name: str) -> list[str]:
    return [checkpoint.tensor_digests[part] for part in (name, *_scales(checkpoint, name))]


def _is_tied(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is an output layer that repeats the embedding, as the config says."""
    configs = (checkpoint.config, checkpoint.config.get("text_config"))
    said = [one["tie_word_embeddings"] for one in configs if isinstance(one, dict) and "tie_word_embeddings" in one]
    # A config that says nothing means its family's default; that both are the same, to the bit, is the proof.
    if (said and True not in said) or not name.endswith("lm_head.weight"):
        return False
    head = checkpoint.tensors[name]
    embeddings = [one for one in checkpoint.tensors.values() if one.name != name and one.shape == head.shape]
    return any(one.dtype == head.dtype and one.digest() == head.digest() for one in embeddings)


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
