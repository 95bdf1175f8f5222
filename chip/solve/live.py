"""An edit tried on the model in memory: what the checkpoint would hold, for as long as it is asked."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from chip.edit import Change, Edit
from chip.models.sites import StoredSite


@contextmanager
def applied(model: nn.Module, edit: Edit) -> Iterator[None]:
    """The model's live weights and biases with an edit on them; bit for bit as before on the way out."""
    kept = {change.parameter: _live(model, change).clone() for change in edit.changes}
    try:
        apply_live(model, edit)
        yield
    finally:
        for name, tensor in kept.items():
            model.get_parameter(name).detach().copy_(tensor)


def apply_live(model: nn.Module, edit: Edit) -> None:
    """Put an edit on the model's live weights and biases, which are named as in the module tree and turned as stored.

    Computed in float32 on the model's device and rounded once to its dtype, as close to the checkpoint that would be
    written as that allows (the writer computes in float64).
    """
    for change in edit.changes:
        _add(_live(model, change), change)


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


def _add(tensor: Tensor, change: Change) -> None:
    left = torch.tensor(change.left).to(tensor.device)
    delta = left if change.right is None else left @ torch.tensor(change.right).to(tensor.device)
    matrix = tensor if tensor.dim() == 2 else tensor.view(len(tensor), -1)
    rows = slice(None) if change.rows is None else torch.tensor(change.rows).to(tensor.device)
    matrix[rows] = (matrix[rows].float() + delta).to(tensor.dtype)
