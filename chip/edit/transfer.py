"""An edit carried over to other weights of the same model, such as another epoch's, from what its changes keep.

What was solved on one set of weights is not right for another: CHIP's projection has to take away what the other
weights put out along its directions, and keys arrive where they were sent only if what they now give is reckoned with.
Both follow from the weights alone (docs/mathematics.md, "On other weights"): no model is run and no record is read.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from chip.edit.change import Change, Projected, Redirected
from chip.edit.edit import Edit
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.matrix import Matrix
from chip.models.stored import Array


def transferred(edit: Edit, checkpoint: Checkpoint) -> Edit:
    """The edit as its changes are derived for the weights of `checkpoint`, which are read row block by row block.

    On the weights that it was solved on that is the same edit, to the rounding of 32-bit factors; and from there it may
    be carried on. `base` is what the checkpoint holds. Raises ChipError where a change keeps nothing that it could be
    derived from, or where the checkpoint does not store such a tensor.
    """
    tensors = {change.tensor: _tensor(change, checkpoint) for change in edit.changes}
    return replace(
        edit,
        changes=tuple(_derived(change, tensors[change.tensor]) for change in edit.changes),
        base={name: stored.digest() for name, stored in tensors.items()},
        edited={},
        transferred=True,
    )


def _tensor(change: Change, checkpoint: Checkpoint) -> Matrix:
    if change.tensor not in checkpoint.tensors:
        raise ChipError(f"the edit changes {change.tensor}, which {checkpoint.directory} does not store")
    matrix = checkpoint.matrix(change.tensor)
    change.refuse_misfit(matrix.shape)
    return matrix


def _derived(change: Change, stored: Matrix) -> Change:
    shape = stored.shape[0], change.width
    match change.derivation:
        case Projected() as found:
            _refuse_unless(change, _fits_projection(found, shape))
            return _projected(change, found, stored)
        case Redirected() as found:
            _refuse_unless(change, change.rows is None and _fits_redirection(change, found, shape))
            return _redirected(change, found, stored)
        case None:
            raise ChipError(
                f"the edit keeps nothing that its change of {change.tensor} could be derived from on other weights; "
                "solve it on them, with `chip edit`"
            )


def _refuse_unless(change: Change, fits: bool) -> None:
    if not fits:
        raise ChipError(
            f"what the change of {change.tensor} is derived from does not fit its shape; the edit is damaged"
        )


def _fits_projection(found: Projected, shape: tuple[int, int]) -> bool:
    outputs = shape[1] if found.transposed else shape[0]
    if found.rows is None:
        return bool(found.basis.shape[1] == outputs)
    return len(found.rows) == found.basis.shape[1] and bool(np.all((found.rows >= 0) & (found.rows < outputs)))


def _fits_redirection(change: Change, found: Redirected, shape: tuple[int, int]) -> bool:
    outputs, inputs = shape[::-1] if found.transposed else shape
    rank = len(found.keys)
    if change.right is None or found.keys.shape != (rank, inputs) or found.outputs.shape != (outputs, rank):
        return False
    right = change.left.T if found.transposed else change.right
    return bool(right.shape == (rank, inputs))


def _projected(change: Change, found: Projected, stored: Matrix) -> Change:
    """`−Qᵀ (Q W'[S])`, with Q W'[S] added up over the blocks."""
    basis = found.basis.astype(np.float64)
    if found.transposed:
        columns = slice(None) if found.rows is None else found.rows
        left = np.concatenate([block[:, columns] @ basis.T for _, block in _blocks(stored)])
        right = np.zeros((len(basis), change.width))
        right[:, columns] = -basis
        return replace(change, left=_rounded(left), right=_rounded(right), rows=None)
    rows = np.arange(stored.shape[0]) if found.rows is None else found.rows
    met = np.zeros((len(basis), change.width))
    for start, block in _blocks(stored):
        inside = np.flatnonzero((rows >= start) & (rows < start + len(block)))
        met += basis[:, inside] @ block[rows[inside] - start]
    return replace(change, left=_rounded(-basis.T), right=_rounded(met), rows=found.rows)


def _redirected(change: Change, found: Redirected, stored: Matrix) -> Change:
    """What was there, and `(P − W' Xᵀ) B`: B, a factor of the change, stays, and the other gains what P lacks."""
    now = _outputs(stored, found)
    lacking = found.outputs.astype(np.float64) - now
    derivation = replace(found, outputs=_rounded(now))
    if found.transposed:
        assert change.right is not None
        return replace(change, right=_rounded(change.right + lacking.T), derivation=derivation)
    return replace(change, left=_rounded(change.left + lacking), derivation=derivation)


def _outputs(stored: Matrix, found: Redirected) -> Array:
    """What the keys give on these weights, W' Xᵀ (D, r), in float64."""
    keys = found.keys.astype(np.float64)
    if not found.transposed:
        return np.concatenate([block @ keys.T for _, block in _blocks(stored)])
    total = np.zeros((found.outputs.shape[0], len(keys)))
    for start, block in _blocks(stored):
        total += block.T @ keys[:, start : start + len(block)].T
    return total


def _blocks(stored: Matrix) -> Iterator[tuple[int, Array]]:
    """The tensor's rows, block by block, each with the number of its first."""
    for start, stop in stored.blocks():
        yield start, stored.read_rows(start, stop).astype(np.float64)


def _rounded(values: Array) -> Array:
    return np.ascontiguousarray(values, np.float32)
