"""An edit as a PEFT LoRA adapter, which reproduces the edited model on the base (https://huggingface.co/docs/peft).

LoRA adds `scaling · B A` to a weight; here scaling is 1, A is a change's right factor and B its left one. An adapter
says as much about the target as an edit file does, and is as private.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from chip.edit.change import Change
from chip.edit.edit import Edit
from chip.edit.merge import CONFIG, WEIGHTS
from chip.edit.staging import StagedDirectory
from chip.errors import ChipError
from chip.files import write_private
from chip.models.stored import Array

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Adapted:
    """What is added to one tensor of the module tree: left (D, r) and right (r, d); a bias is seen as (D, 1)."""

    parameter: str
    left: Array
    right: Array

    @property
    def rank(self) -> int:
        return int(self.left.shape[1])

    @property
    def module(self) -> str:
        """The module that holds it."""
        return self.parameter.rpartition(".")[0]

    @property
    def kind(self) -> str:
        """`weight` or `bias` of a linear layer; another name is that of a bare parameter."""
        return self.parameter.rpartition(".")[2]


def write_adapter(
    edits: Sequence[Edit], directory: Path, *, shapes: Shapes, base: str | None = None, force: bool = False
) -> tuple[Adapted, ...]:
    """Write `edits`, in their order, as one adapter: its config and its weights, mode 0600, whole or not at all.

    shapes: of the base's tensors, as stored, for changes of some rows alone, which are filled up; may be empty where
    there are none. base: what the config shall name as the model. What several edits do to a tensor is summed up; the
    rounding between them is lost. `force` replaces a directory that holds an adapter and nothing else. Returns what was
    written. Raises ChipError, naming the tensor, where peft cannot carry a change, or where an edit does not say what
    its tensors are called in the module tree.
    """
    refuse_directory(directory, force=force)
    adapted = _summed([_adapted(change, shapes) for edit in edits for change in edit.changes])
    _refuse_unsupported(adapted)
    weights = save(_tensors(adapted), {"format": "pt"})
    config = json.dumps(_config(adapted, base), indent=2, sort_keys=True) + "\n"
    with StagedDirectory(directory, force=force) as staged:
        write_private(staged.directory / WEIGHTS, weights)
        write_private(staged.directory / CONFIG, config.encode())
        refuse_directory(directory, force=force)
        staged.commit()
    return adapted


def refuse_directory(directory: Path, *, force: bool) -> None:
    """Raise ChipError where an adapter may not be written to `directory`: it exists, unless `force` and it holds
    nothing but an adapter."""
    if not directory.exists() and not directory.is_symlink():
        return
    if not force:
        raise ChipError(f"{directory} exists already; choose another --peft, or replace it with --force")
    plain = directory.is_dir() and not directory.is_symlink()
    if not plain or not {path.name for path in directory.iterdir()} <= {CONFIG, WEIGHTS}:
        raise ChipError(
            f"{directory} holds more than an adapter, so --force does not replace it; choose another --peft"
        )


def _adapted(change: Change, shapes: Shapes) -> Adapted:
    """A change as factors of all its rows."""
    if not change.parameter:
        raise ChipError(
            f"the edit does not say what {change.tensor} is called in the model, as older edits did not; solve it again"
        )
    if change.tensor in shapes:
        change.refuse_misfit(shapes[change.tensor])
    if change.right is None:
        left, right = _factored(change.delta())
    else:
        left, right = change.left, change.right
    if change.rows is not None:
        left = _filled(change, left, shapes)
    return Adapted(change.parameter, np.asarray(left, np.float32), np.asarray(right, np.float32))


def _filled(change: Change, left: Array, shapes: Shapes) -> Array:
    """Left factors of all rows, zero in those that do not change."""
    assert change.rows is not None
    if change.tensor not in shapes:
        raise ChipError(
            f"the edit changes some rows of {change.tensor}; say with --base of what model, for their number"
        )
    filled = np.zeros((shapes[change.tensor][0], left.shape[1]), left.dtype)
    filled[change.rows] = left
    return filled


def _factored(delta: Array) -> tuple[Array, Array]:
    """A dense change (D, d) as its singular vectors: exact but for what 32 bits round away."""
    left, sizes, right = np.linalg.svd(delta, full_matrices=False)
    rank = int((sizes > np.finfo(np.float32).eps * sizes[:1]).sum())
    roots = np.sqrt(sizes[:rank])
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def _summed(adapted: Sequence[Adapted]) -> tuple[Adapted, ...]:
    """One entry a tensor, in the order of first changes: factors side by side, or of the sum where that is less."""
    found: dict[str, list[Adapted]] = {}
    for one in adapted:
        found.setdefault(one.parameter, []).append(one)
    return tuple(parts[0] if len(parts) == 1 else _sum(parts) for parts in found.values())


def _sum(parts: Sequence[Adapted]) -> Adapted:
    name, shapes = parts[0].parameter, {(len(one.left), one.right.shape[1]) for one in parts}
    if len(shapes) > 1:
        raise ChipError(f"the edits change {name} in different shapes: they are of different models")
    left = np.concatenate([one.left for one in parts], axis=1)
    right = np.concatenate([one.right for one in parts])
    if left.shape[1] <= min(len(left), right.shape[1]):
        return Adapted(name, left, right)
    factors = _factored(left.astype(np.float64) @ right.astype(np.float64))
    return Adapted(name, *(one.astype(np.float32) for one in factors))


def _refuse_unsupported(adapted: Sequence[Adapted]) -> None:
    """Raise ChipError for what peft cannot carry: a bias whose weight does not change, or beside a bare parameter."""
    if not any(one.rank for one in adapted):
        raise ChipError("the edit changes nothing, so there is nothing to export")
    weights = {one.module for one in adapted if one.kind == "weight"}
    biases = [one for one in adapted if one.kind == "bias"]
    bare = [one for one in adapted if one.kind not in ("weight", "bias")]
    for one in biases:
        if one.module not in weights:
            raise ChipError(f"the edit changes {one.parameter} but not its weight, which no LoRA adapter can carry")
        if bare:
            raise ChipError(
                f"the edit changes {bare[0].parameter}, which is no linear layer, and {one.parameter}: peft carries no "
                "bias beside such a parameter; use the edited checkpoint"
            )
    modules = [one.module for one in bare]
    if twice := next((one for one in modules if modules.count(one) > 1), None):
        raise ChipError(f"the edit changes several parameters of {twice}; peft would need to nest them")


def _tensors(adapted: Sequence[Adapted]) -> dict[str, Array]:
    """Weights by the names that peft has for them. Every layer has a bias where one of them changes: peft gives LoRA
    biases to all layers or to none."""
    biases = {one.module: (one.left.astype(np.float64) @ one.right)[:, 0] for one in adapted if one.kind == "bias"}
    tensors: dict[str, Array] = {}
    for one in _layers(adapted):
        stem = f"base_model.model.{one.module}"
        tensors[f"{stem}.lora_A.weight"] = np.ascontiguousarray(one.right)
        tensors[f"{stem}.lora_B.weight"] = np.ascontiguousarray(one.left)
        if biases:
            tensors[f"{stem}.lora_B.bias"] = biases.get(one.module, np.zeros(len(one.left))).astype(np.float32)
    return tensors


def _config(adapted: Sequence[Adapted], base: str | None) -> dict[str, Any]:
    """What peft has to know, by the names of its `LoraConfig`; the rest is its defaults."""
    layers = _layers(adapted)
    ranks = {one.module if one.kind == "weight" else one.parameter: one.rank for one in layers}
    bare = [one.parameter for one in layers if one.kind != "weight"]
    # A bare parameter takes the rank of all that have none of their own: peft warns where patterns name one.
    usual = ranks[bare[0]] if bare else max(ranks.values())
    patterns = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": [name for name in ranks if name not in bare],
        "lora_bias": any(one.kind == "bias" for one in adapted),
        **({"target_parameters": bare} if bare else {}),
    }


def _layers(adapted: Sequence[Adapted]) -> list[Adapted]:
    """Weights and bare parameters. One that does not change beside a bias that does still needs a rank, of zeros."""
    biases = {one.module for one in adapted if one.kind == "bias"}
    found = []
    for one in adapted:
        if one.kind != "bias" and one.rank:
            found.append(one)
        elif one.kind == "weight" and one.module in biases:
            zeros = np.zeros((len(one.left), 1), np.float32), np.zeros((1, one.right.shape[1]), np.float32)
            found.append(Adapted(one.parameter, *zeros))
    return found
