"""Changes as an edit keeps them: 32-bit factors away from any device, under the names that the file and the module tree
have for a tensor, with what they are derived from on other weights (docs/mathematics.md, "On other weights")."""

import torch
from torch import Tensor

from chip.collect.statistics import accumulator_dtype
from chip.edit import Change, Projected, Redirected
from chip.errors import ChipError
from chip.models.sites import StoredSite
from chip.models.stored import Array
from chip.solve.orthogonal import Projection


def weight_change(
    stored: StoredSite,
    left: Tensor,
    right: Tensor | None,
    rows: Tensor | None = None,
    derivation: Projected | Redirected | None = None,
) -> Change:
    """A change of a site's weight (D, d), whose `rows` gain left @ right, as a change of the tensor as it is stored."""
    if not stored.site.transposed:
        return _change(stored.weight.name, stored.site.parameter, left, right, rows, derivation)
    if right is None:
        return _change(stored.weight.name, stored.site.parameter, left.T, None, None, derivation)
    if rows is not None:
        # Rows of the weight are columns of what is stored; all of it gains a product that is zero in the others.
        left = left.new_zeros(stored.weight.shape[1], left.shape[1]).index_copy(0, rows.to(left.device), left)
    return _change(stored.weight.name, stored.site.parameter, right.T, left.T, None, derivation)


def bias_change(
    stored: StoredSite,
    left: Tensor,
    right: Tensor,
    rows: Tensor | None = None,
    derivation: Projected | Redirected | None = None,
) -> Change:
    """A change of a site's bias, seen as a matrix (D, 1). Raises ChipError where the site has none."""
    if stored.bias is None:
        raise ChipError(f"{stored.site.name} has no bias that could be changed")
    return _change(stored.bias.name, f"{stored.site.name}.bias", left, right, rows, derivation)


def projected(projection: Projection, *, transposed: bool = False) -> Projected:
    """How what projects outputs off is derived from other weights; transposed: of a tensor kept with inputs first."""
    return Projected(_numbers(projection.basis), _integers(projection.neurons), transposed)


def redirected(stored: StoredSite, weight: Tensor, keys: Tensor) -> Redirected:
    """How what sends keys (r, d) elsewhere is derived from weights other than `weight` (D, d), which it was solved on.

    Outputs are those of the keys as they are kept, so that on the same weights nothing but their own rounding is left;
    computed where the weight is, in 64 bits on a CPU.
    """
    kept, dtype = keys.float(), accumulator_dtype(weight.device)
    outputs = weight.to(dtype) @ kept.to(weight.device, dtype).T
    return Redirected(_numbers(kept), _numbers(outputs), stored.site.transposed)


def _change(
    tensor: str,
    parameter: str,
    left: Tensor,
    right: Tensor | None,
    rows: Tensor | None,
    derivation: Projected | Redirected | None,
) -> Change:
    return Change(
        tensor,
        _numbers(left),
        None if right is None else _numbers(right),
        None if rows is None else _integers(rows),
        parameter,
        derivation,
    )


def _numbers(value: Tensor) -> Array:
    array: Array = value.to("cpu", torch.float32).contiguous().numpy()
    return array


def _integers(value: Tensor) -> Array:
    array: Array = value.to("cpu", torch.int64).contiguous().numpy()
    return array
