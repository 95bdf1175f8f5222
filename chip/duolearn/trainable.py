"""What is trained: all parameters as they are, or LoRA factors beside a few of them; and the change that came of it."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chip.edit import Change
from chip.errors import ChipError
from chip.models.loading import LoadedModel
from chip.models.matrix import Matrix
from chip.models.sites import Site, StoredSite
from chip.models.stored import Array
from chip.solve.changes import weight_change
from chip.solve.problem import SiteReport


@dataclass(frozen=True)
class Made:
    """The changes of a training, with a report on each."""

    changes: tuple[Change, ...]
    reports: tuple[SiteReport, ...]


class Trainable:
    """Parameters under training, by name, and what they were at its start, in whatever dtype that was."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], originals: Mapping[str, Tensor]) -> None:
        self.parameters, self.originals = dict(parameters), dict(originals)

    @property
    def tensors(self) -> list[nn.Parameter]:
        return list(self.parameters.values())

    @property
    def count(self) -> int:
        return sum(one.numel() for one in self.parameters.values())

    @contextmanager
    def before(self) -> Iterator[None]:
        """The model as it was at the start, for a while."""
        now = {name: one.data for name, one in self.parameters.items()}
        try:
            for name, one in self.parameters.items():
                one.data = self.originals[name].to(one.dtype)
            yield
        finally:
            for name, one in self.parameters.items():
                one.data = now[name]

    def state(self) -> dict[str, Tensor]:
        """The parameters as they are, copied off the device."""
        return {name: one.detach().to("cpu", copy=True) for name, one in self.parameters.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put parameters back to what `state` gave."""
        with torch.no_grad():
            for name, one in self.parameters.items():
                one.copy_(state[name])

    def finite(self) -> bool:
        return all(bool(one.detach().isfinite().all()) for one in self.parameters.values())


class Trained(Trainable, ABC):
    """Parameters whose training ends in changes of stored tensors."""

    @abstractmethod
    def made(self) -> Made:
        """What training has changed."""


class _Whole(Trained):
    """Parameters trained as they are: dense changes."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], originals: Mapping[str, Tensor], stored: Mapping[str, Matrix]
    ) -> None:
        super().__init__(parameters, originals)
        self._stored = stored

    def made(self) -> Made:
        changes, reports = [], []
        for name, one in self.parameters.items():
            original = self.originals[name].to("cpu", torch.float64)
            delta = one.detach().to("cpu", torch.float64) - original
            delta = delta.flatten(1) if one.dim() > 1 else delta[:, None]
            relative = float(delta.norm() / original.norm().clamp_min(torch.finfo(torch.float64).tiny))
            if relative > 0:
                changes.append(Change(self._stored[name].name, _numbers(delta), None, parameter=name))
            reports.append(_report(name, min(delta.shape), relative))
        return Made(tuple(changes), tuple(reports))


@dataclass(frozen=True)
class LowRank:
    """LoRA's shape: a weight gains (alpha/rank) B A (Hu et al., arXiv 2106.09685). alpha: None for the rank itself, so
    that the factor is 1. dropout: share of A's inputs that is dropped while its layers are set to training. gaussian:
    whether A is drawn as a normal distribution of deviation 1/rank, instead of as peft draws it by itself."""

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    gaussian: bool = False

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


class _LowRank(Trained):
    """LoRA factors: changes of low rank, `scale · B A`."""

    def __init__(self, factors: Trainable, model: nn.Module, sites: Sequence[StoredSite], scale: float) -> None:
        self._sites, self._scale = tuple(sites), scale
        self._layers: dict[str, Any] = {one.site.name: model.get_submodule(one.site.name) for one in sites}
        super().__init__(factors.parameters, factors.originals)

    def made(self) -> Made:
        changes, reports = [], []
        for one in self._sites:
            name = one.site.name
            right, left = (self.parameters[f"{name}.lora_{which}.default.weight"].detach().double() for which in "AB")
            left = self._scale * left
            weight = self._layers[name].base_layer.weight.detach().double()
            relative = float((left @ right).norm() / weight.norm())
            if relative > 0:
                changes.append(weight_change(one, left, right))
            reports.append(_report(name, len(right), relative))
        return Made(tuple(changes), tuple(reports))


@contextmanager
def whole(loaded: LoadedModel, stored: Mapping[str, Matrix]) -> Iterator[Trained]:
    """Train parameters as they are; what comes of it is changes of the stored tensors."""
    with in_float32(loaded, stored) as trainable:
        yield _Whole(trainable.parameters, trainable.originals, stored)


@contextmanager
def low_rank(loaded: LoadedModel, sites: Sequence[StoredSite], shape: int | LowRank, seed: int) -> Iterator[Trained]:
    """Train LoRA factors beside the sites' weights; what comes of it is changes of the stored tensors."""
    shape = LowRank(shape) if isinstance(shape, int) else shape
    with factors(loaded, [one.site.name for one in sites], shape, seed) as trainable:
        yield _LowRank(trainable, loaded.model, sites, shape.scale)


@contextmanager
def in_float32(loaded: LoadedModel, names: Collection[str]) -> Iterator[Trainable]:
    """The parameters of these names, to be trained as they are, in float32; on the way out the model is as it was, bit
    for bit."""
    every = dict(loaded.model.named_parameters())
    kept = {name: one.data for name, one in every.items()}
    with _training_only(loaded.model):
        try:
            for name, one in every.items():
                one.data = one.data.to(torch.float32, copy=name in names)
            for name in names:
                every[name].requires_grad_(True)
            yield Trainable({name: every[name] for name in names}, {name: kept[name] for name in names})
        finally:
            for name, one in every.items():
                one.data = kept[name]


@contextmanager
def factors(loaded: LoadedModel, layers: Sequence[str], shape: int | LowRank, seed: int) -> Iterator[Trainable]:
    """LoRA factors of this shape, or rank, beside the weights of linear layers; on the way out the model is as it was.

    B begins at zero and A is drawn by seed, in float32. Nothing is dropped unless dropout layers are set to training.
    """
    peft = require_peft()
    shape = LowRank(shape) if isinstance(shape, int) else shape
    seeded = [loaded.device] if loaded.device.type == "cuda" else []
    with _training_only(loaded.model), torch.random.fork_rng(devices=seeded):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=shape.rank,
            lora_alpha=shape.rank if shape.alpha is None else shape.alpha,
            lora_dropout=shape.dropout,
            bias="none",
            init_lora_weights="gaussian" if shape.gaussian else True,
            target_modules=list(layers),
        )
        with warnings.catch_warnings():
            # transformers', of a name that peft still uses.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            wrapped = peft.get_peft_model(loaded.model, config)
        try:
            wrapped.eval()
            names = [f"{layer}.lora_{which}.default.weight" for layer in layers for which in "AB"]
            made = {name: loaded.model.get_parameter(name) for name in names}
            yield Trainable(made, {name: one.detach().clone() for name, one in made.items()})
        finally:
            wrapped.unload()


def lora_rank(model: nn.Module, sites: Sequence[Site], given: int | None, share: float) -> int:
    """The rank given, or the largest whose factors are at most that share of the model's parameters; at least 1.

    Raises ChipError where the rank given is more than a site's matrix can have.
    """
    most = min(min(site.widths(model)) for site in sites)
    if given is not None and given > most:
        raise ChipError(f"--lora-rank {given} is more than a matrix of these layers can have; give at most {most}")
    if given is not None:
        return given
    a_rank = lora_parameters(model, sites, 1)
    return min(max(int(share * sum(one.numel() for one in model.parameters())) // a_rank, 1), most)


def lora_parameters(model: nn.Module, sites: Sequence[Site], rank: int) -> int:
    """How many parameters LoRA factors of a rank have."""
    return rank * sum(sum(site.widths(model)) for site in sites)


@contextmanager
def _training_only(model: nn.Module) -> Iterator[None]:
    """No parameter takes gradients but those that are asked to within; flags and gradients are put back."""
    flags = {one: one.requires_grad for one in model.parameters()}
    try:
        for one in flags:
            one.requires_grad_(False)
        yield
    finally:
        for one, flag in flags.items():
            one.requires_grad_(flag)
            one.grad = None


def require_peft() -> Any:
    """The library peft. Raises ChipError where it is not installed."""
    try:
        import peft
    except ImportError as problem:
        raise ChipError(
            "LoRA needs peft, which is not installed: pip install 'chip-unlearning[duolearn]', or --train full"
        ) from problem
    return peft


def _report(name: str, rank: int, relative: float) -> SiteReport:
    if not relative:
        return SiteReport(name, 0, 0.0, reason="training has not moved it")
    return SiteReport(name, rank, relative)


def _numbers(tensor: Tensor) -> Array:
    return tensor.to("cpu", torch.float32).numpy().astype(np.float32, copy=False)
