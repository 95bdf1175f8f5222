"""An edit tried on the model in memory: what the checkpoint would hold, for as long as it is asked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from chip.edit import Change, Edit
from chip.errors import ChipError
from chip.models.sites import StoredSite
from chip.models.stored import DTYPES, is_finite, rounded


@contextmanager
def applied(model: nn.Module, edit: Edit) -> Iterator[None]:
    """The model's live weights and biases with an edit on them; bit for bit as before on the way out.

    Computed in float32 on the model's device and rounded once to its dtype, as close to the checkpoint that would be
    written as is quickly done (the writer computes in float64).
    """
    with kept_aside(model, [edit]):
        for change in edit.changes:
            _add(_live(model, change), change)
        yield


@contextmanager
def kept_aside(model: nn.Module, edits: Sequence[Edit], *, unless_done: bool = False) -> Iterator[None]:
    """What these edits change is as before on the way out, bit for bit; with `unless_done` only where that is by an
    exception."""
    kept = {change.parameter: _live(model, change).clone() for edit in edits for change in edit.changes}
    done = False
    try:
        yield
        done = True
    finally:
        if not (done and unless_done):
            for name, tensor in kept.items():
                model.get_parameter(name).detach().copy_(tensor)


def apply_live(model: nn.Module, edit: Edit) -> None:
    """Change a model's live parameters bit for bit as the writer changes their checkpoint: in 64 bits, rounded once to
    their own dtype. Raises ChipError, with nothing changed, where a value is too large for that."""
    made = [(_live(model, change), _rounded(_live(model, change), change)) for change in edit.changes]
    for live, values in made:
        live.copy_(values)


def live_tensors(model: nn.Module, stored: Mapping[str, StoredSite]) -> dict[str, Tensor]:
    """The live tensors of sites by their names in the checkpoint, turned as they are stored."""
    found = {}
    for one in stored.values():
        weight = one.site.weight(model)
        found[one.weight.name] = weight.T if one.site.transposed else weight
        bias = one.site.bias(model)
        if one.bias is not None and bias is not None:
            found[one.bias.name] = bias
    return found


def _live(model: nn.Module, change: Change) -> Tensor:
    return model.get_parameter(change.parameter).detach()


def _rounded(live: Tensor, change: Change) -> Tensor:
    """What a live tensor becomes, on the CPU."""
    held = live.to("cpu").contiguous()
    bits = held.view(torch.int16) if held.dtype == torch.bfloat16 else held
    values = bits.numpy().view(DTYPES["BF16"]) if held.dtype == torch.bfloat16 else bits.numpy()
    change.refuse_misfit(values.shape)
    made = rounded(change.added(values.reshape(len(values), -1)), values.dtype)
    if not is_finite(made):
        raise ChipError(f"{change.parameter} would hold values that its dtype cannot; nothing was changed")
    return torch.from_numpy(made.view(bits.numpy().dtype)).view(held.dtype).view(live.shape)


def _add(tensor: Tensor, change: Change) -> None:
    left = torch.tensor(change.left).to(tensor.device)
    delta = left if change.right is None else left @ torch.tensor(change.right).to(tensor.device)
    matrix = tensor if tensor.dim() == 2 else tensor.view(len(tensor), -1)
    rows = slice(None) if change.rows is None else torch.tensor(change.rows).to(tensor.device)
    matrix[rows] = (matrix[rows].float() + delta).to(tensor.dtype)
