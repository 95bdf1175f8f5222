"""The edit itself: changes of stored tensors, apart from where the weights live, and how they came about."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from chip.edit.change import Change, Projected, Redirected
from chip.errors import ChipError
from chip.models.stored import Array


@dataclass(frozen=True)
class Edit:
    """Changes and how they came about.

    method, settings: of the solver. base: digests of the tensors that are changed, as they were when it was solved.
    edited: the same tensors' digests once it was written to them; empty before. nodes: the targets' paths, hashed with
    the owner's salt. after: identities of the edits that the base already carried. transferred: whether it was derived
    for other weights than those that it was solved on.
    """

    method: str
    settings: Mapping[str, Any]
    changes: tuple[Change, ...]
    base: Mapping[str, str] = field(default_factory=dict)
    edited: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    transferred: bool = False

    def __post_init__(self) -> None:
        names = [change.tensor for change in self.changes]
        if len(set(names)) != len(names):
            raise ChipError("an edit changes the same tensor twice")

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors that it changes."""
        return tuple(change.tensor for change in self.changes)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over what it does to which weights: the same before and after it was written."""
        total = hashlib.sha256(json.dumps([self.method, sorted(self.base.items()), self.after]).encode())
        for change in self.changes:
            for name, part in arrays_of(change).items():
                total.update(f"{change.tensor}\0{name}\0{part.shape}\0".encode())
                total.update(np.ascontiguousarray(part).data)
        return total.hexdigest()


def arrays_of(change: Change) -> dict[str, Array]:
    """The arrays of a change by the names that they have in an edit file."""
    parts = {"left": change.left, "right": change.right, "rows": change.rows}
    match change.derivation:
        case Projected(basis, rows):
            parts |= {"projected.basis": basis, "projected.rows": rows}
        case Redirected(keys, outputs):
            parts |= {"redirected.keys": keys, "redirected.outputs": outputs}
    return {name: part for name, part in parts.items() if part is not None}
