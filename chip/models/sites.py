"""Sites: the linear layers that can be edited, and where each of their tensors stands in the checkpoint's files.

Module trees and files name tensors differently, so a stored tensor is found by the longest common ending of its name
and proved by its values: what is edited on disk is what was measured in memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from chip.errors import ChipError, UsageError
from chip.models.checkpoint import Checkpoint, StoredTensor
from chip.models.families import Family

Role = Literal["language", "projector"]


@dataclass(frozen=True)
class Site:
    """One linear layer: its module name, its role, and for language sites the layer's number and the linear's name."""

    name: str
    role: Role
    layer: int
    linear: str

    def module(self, model: nn.Module) -> nn.Linear:
        module = model.get_submodule(self.name)
        if not isinstance(module, nn.Linear):
            raise ChipError(
                f"{self.name} is a {type(module).__name__}, not a linear layer; this family cannot be edited yet"
            )
        return module


    def weight(self, model: nn.Module):
        return self.module(model).weight

    def watch(self, model, watcher):
        return self.module(model).register_forward_hook(lambda _, i, o: watcher(i[0].detach(), o.detach()))


def find_sites(model: nn.Module, family: Family) -> tuple[Site, ...]:
    """Every site of a model in forward order: the projector's linears, then each language layer's MLP linears."""
    names = {name for name, _ in model.named_modules()}
    projector = [Site(name, "projector", -1, name.rpartition(".")[2]) for name in family.projector if name in names]
    depth = 0
    while f"{family.layers}.{depth}" in names:
        depth += 1
    language = [
        Site(f"{family.layers}.{layer}.{linear}", "language", layer, linear.rpartition(".")[2])
        for layer in range(depth)
        for linear in family.mlp
        if f"{family.layers}.{layer}.{linear}" in names
    ]
    missing = [name for name in family.projector if name not in names]
    if not language or missing:
        lost = missing[0] if missing else f"{family.layers}.*.{family.mlp[0]}"
        raise ChipError(f"the model says it is {family.name!r} but has no module {lost}; its sites cannot be found")
    return (*projector, *language)


def layer_count(sites: Iterable[Site]) -> int:
    """The number of language layers."""
    return 1 + max(site.layer for site in sites)


def choose_layers(sites: Sequence[Site], spelled: str | None) -> tuple[int, ...]:
    """Layer numbers from `22-27` or `0,2,5-7`, checked against the model; every layer where nothing is given."""
    count = layer_count(sites)
    if spelled is None:
        return tuple(range(count))
    chosen: set[int] = set()
    for piece in spelled.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--layers {spelled!r} is not of the form 22-27 or 0,2,5-7")
        low, high = int(first), int(last or first)
        if low > high or high >= count:
            raise UsageError(f"--layers {spelled!r}: the model has layers 0-{count - 1}")
        chosen.update(range(low, high + 1))
    return tuple(sorted(chosen))


@dataclass(frozen=True)
class StoredSite:
    """A site together with its tensors on disk."""

    site: Site
    weight: StoredTensor
    bias: StoredTensor | None


def stored_sites(model: nn.Module, checkpoint: Checkpoint, sites: Iterable[Site]) -> dict[str, StoredSite]:
    """Where each site's tensors stand in the checkpoint, proved equal to the loaded parameters.

    Raises ChipError where a tensor is missing, ambiguous, not finite, or differs from the loaded parameter.
    """
    found = {}
    for site in sites:
        module = site.module(model)
        weight = _prove(checkpoint, f"{site.name}.weight", module.weight)
        bias = None if module.bias is None else _prove(checkpoint, f"{site.name}.bias", module.bias)
        found[site.name] = StoredSite(site, weight, bias)
    return found


def _prove(checkpoint: Checkpoint, name: str, parameter: torch.Tensor) -> StoredTensor:
    stored = find_stored(checkpoint, name, tuple(parameter.shape))
    values = stored.read()
    if not np.isfinite(values).all():
        raise ChipError(f"{stored.name} in {stored.file} holds values that are not finite")
    loaded = parameter.detach().to("cpu", torch.float64)
    if not torch.equal(torch.from_numpy(values.astype(np.float64)).to(parameter.dtype).to(torch.float64), loaded):
        raise ChipError(
            f"{stored.name} in {stored.file} differs from the parameter {name} that transformers loaded; "
            "chip edits only what it has measured"
        )
    return stored


def find_stored(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> StoredTensor:
    """The stored tensor whose name shares the longest ending with a parameter's, and its shape.

    Raises ChipError where there is none, or more than one.
    """
    parts = name.split(".")
    for start in range(len(parts) - 2):
        ending = ".".join(parts[start:])
        found = [
            tensor
            for key, tensor in checkpoint.tensors.items()
            if (key == ending or key.endswith("." + ending)) and tensor.shape == shape
        ]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(tensor.name for tensor in found)
            raise ChipError(f"several stored tensors may be {name}: {names}")
    raise ChipError(f"{checkpoint.directory} stores no tensor for {name}")
