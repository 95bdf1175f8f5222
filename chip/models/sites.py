"""Sites: the linear layers that can be edited, and where each of their tensors stands in the checkpoint's files.

Module trees and files name tensors differently, so a stored tensor is found by the longest common ending of its name
and proved by its values: what is edited on disk is what was measured in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from chip.errors import ChipError, UsageError
from chip.models.checkpoint import Checkpoint
from chip.models.families import Family, Linear, Role, Tower
from chip.models.matrix import Matrix
from chip.models.parameters import holders_of, prove_stored

Watcher = Callable[[Tensor, Tensor], None]
"""Takes what enters a site and what leaves it: (..., d) and (..., D)."""


@dataclass(frozen=True)
class Patches:
    """Which rows of a tower's layer, or of the projector behind it, belong to the picture.

    The first `leading` rows of every image are none. With a `tile_mask`, an image is a fixed number of tiles, each of
    `leading` rows, then `count` patches, then padding; and of the tiles those are real for which the input of that
    name (images, tiles) of the module `tower` is not zero.
    """

    leading: int
    tower: str = ""
    tile_mask: str = ""
    count: int | None = None


@dataclass(frozen=True)
class Site:
    """One linear layer: the dotted name of the module, or of the bare parameter, that holds its weight.

    layer: language and attention sites, the language layer's number; vision sites, the tower's; projector, -1.
    linear: the last part of the name. last: a language site that writes into the residual stream; the projector's last
    linear. given, output: where the weight is a bare parameter (d, D), the modules whose outputs enter and leave it.
    block: of a site that writes into the residual stream, the layer that adds what it puts out to it as it is; empty
    where that is normalised first, or nobody looked.
    """

    name: str
    role: Role
    layer: int
    linear: str
    last: bool = False
    given: str = ""
    output: str = ""
    block: str = ""
    patches: Patches | None = None

    @property
    def transposed(self) -> bool:
        """Whether the weight is kept as (d, D), inputs first."""
        return bool(self.given)

    @property
    def writes(self) -> bool:
        """Whether it writes into the language model's residual stream."""
        return self.role == "attention" or (self.role == "language" and self.last)

    @property
    def parameter(self) -> str:
        """The dotted name of the weight itself."""
        return self.name if self.transposed else f"{self.name}.weight"

    def weight(self, model: nn.Module) -> Tensor:
        """The live weight as (D, d): a view, so that what is copied into it changes the model."""
        if self.transposed:
            return model.get_parameter(self.name).detach().T
        return self._linear(model).weight.detach()

    def bias(self, model: nn.Module) -> Tensor | None:
        """The live bias (D,), or None."""
        bias = None if self.transposed else self._linear(model).bias
        return None if bias is None else bias.detach()

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Numbers of inputs and outputs, (d, D)."""
        outputs, inputs = self.weight(model).shape
        return inputs, outputs

    def watch(self, model: nn.Module, watcher: Watcher) -> "Watch":
        """Call `watcher` with what enters and leaves this site at each of its forward passes, until `remove()`.

        At a vision site, rows that are no patch (a class token, padding) are left out; at a projector site, rows of
        tiles that are padding. What the watcher raises ends the forward pass.
        """
        return Watch(self, model, watcher)

    def _linear(self, model: nn.Module) -> nn.Linear:
        module = model.get_submodule(self.name)
        if not isinstance(module, nn.Linear):
            raise ChipError(
                f"{self.name} is a {type(module).__name__}, not a linear layer; this family cannot be edited yet"
            )
        return module


class Watch:
    """The hooks by which a site is watched. `remove()` takes them off."""

    def __init__(self, site: Site, model: nn.Module, watcher: Watcher) -> None:
        self._site, self._watcher = site, watcher
        self._given, self._tiles = torch.empty(0), torch.empty(0)
        self._hooks = list(self._hook(model))

    def remove(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, model: nn.Module) -> Iterator[RemovableHandle]:
        site = self._site
        if site.patches is not None and site.patches.tile_mask:
            see_tiles = partial(self._see_tiles, site.patches.tile_mask)
            yield model.get_submodule(site.patches.tower).register_forward_pre_hook(see_tiles, with_kwargs=True)
        if site.transposed:
            yield model.get_submodule(site.given).register_forward_hook(self._see_given)
            yield model.get_submodule(site.output).register_forward_hook(
                lambda _module, _inputs, output: self._tell(self._given, output)
            )
        else:
            yield model.get_submodule(site.name).register_forward_hook(
                lambda _module, inputs, output: self._tell(inputs[0], output)
            )

    def _see_tiles(self, mask: str, _: nn.Module, __: tuple[object, ...], named: dict[str, Tensor]) -> None:
        self._tiles = named[mask].flatten(0, -2).bool()

    def _see_given(self, _: nn.Module, __: object, output: Tensor) -> None:
        self._given = output

    def _tell(self, given: Tensor, output: Tensor) -> None:
        self._watcher(self._picture(given.detach()), self._picture(output.detach()))

    def _picture(self, rows: Tensor) -> Tensor:
        patches = self._site.patches
        if patches is None:
            return rows
        if not patches.tile_mask:
            return rows[..., patches.leading :, :]
        tiled = rows.reshape(*self._tiles.shape, -1, rows.shape[-1])[self._tiles]
        stop = None if patches.count is None else patches.leading + patches.count
        return tiled[:, patches.leading : stop]


def find_sites(model: nn.Module, family: Family) -> tuple[Site, ...]:
    """Every site of a model, of all four roles, in forward order: the vision tower's layers, the projector, and each
    language layer's attention and MLP. Raises ChipError where one is missing that the table says the family has."""
    names = {name for name, _ in model.named_modules()}
    sites = (*_image_sites(model, family, names), *_language_sites(family, names))
    held = names | {name for name, _ in model.named_parameters()}
    lost = next((site.name for site in sites if site.name not in held), None)
    if lost is None and not any(site.role == "language" for site in sites):
        lost = f"{family.layers}.*.{family.mlp[0]}"
    if lost is not None:
        raise ChipError(f"the model says it is {family.name!r} but has no module {lost}; its sites cannot be found")
    return sites


def _image_sites(model: nn.Module, family: Family, names: set[str]) -> Iterator[Site]:
    """The tower's layers, each with the linears of the projector that stand behind it, then the rest of those."""
    tower, linears = family.tower, family.projector
    if tower is not None:
        patches = _patches(model, tower)
        layers = [layer for stem in tower.layers for layer in _layers(stem, names)]
        for number, layer in enumerate(layers):
            for linear in tower.mlp:
                yield Site(f"{layer}.{linear}", "vision", number, _last_part(linear), patches=patches)
            yield from (_projector_site(one, family) for one in linears if one.after == number)
    yield from (_projector_site(one, family) for one in linears if tower is None or one.after is None)


def _patches(model: nn.Module, tower: Tower) -> Patches | None:
    if not tower.tile_mask:
        return Patches(tower.leading) if tower.leading else None
    config: Any = model.config.vision_config  # type: ignore[union-attr]
    count = (config.image_size // config.patch_size) ** 2
    return Patches(tower.leading, tower.module, tower.tile_mask, count)


def _projector_site(one: Linear, family: Family) -> Site:
    tower, last = family.tower, one is family.projector[-1]
    tiled = Patches(0, tower.module, tower.tile_mask) if tower is not None and tower.tile_mask else None
    return Site(one.name, "projector", -1, _last_part(one.name), last, one.given, one.output, patches=tiled)


def _language_sites(family: Family, names: set[str]) -> Iterator[Site]:
    for number, layer in enumerate(_layers(family.layers, names)):
        if f"{layer}.{family.skip}" in names:
            continue
        if family.attention is not None and f"{layer}.{family.attention}" in names:
            block = layer if family.adds_output else ""
            yield Site(f"{layer}.{family.attention}", "attention", number, _last_part(family.attention), block=block)
        for linear in family.mlp:
            last = linear == family.mlp[-1]
            block = layer if last and family.adds_output else ""
            yield Site(f"{layer}.{linear}", "language", number, _last_part(linear), last, block=block)


def _layers(stem: str, names: set[str]) -> list[str]:
    """The layers of a list, as far as they are numbered without a gap."""
    depth = 0
    while f"{stem}.{depth}" in names:
        depth += 1
    return [f"{stem}.{number}" for number in range(depth)]


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def layer_count(sites: Iterable[Site]) -> int:
    """The number of language layers."""
    return 1 + max(site.layer for site in sites if site.role == "language")


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
    weight: Matrix
    bias: Matrix | None


def stored_sites(model: nn.Module, checkpoint: Checkpoint, sites: Iterable[Site]) -> dict[str, StoredSite]:
    """Where each site's tensors stand in the checkpoint, proved equal to the loaded parameters.

    Raises ChipError where a tensor is missing, ambiguous, not finite, or differs from the loaded parameter, and where
    another part of the model shares it.
    """
    found, holders = {}, holders_of(model)
    for site in sites:
        bias = site.bias(model)
        found[site.name] = StoredSite(
            site,
            prove_stored(checkpoint, site.parameter, model, holders),
            None if bias is None else prove_stored(checkpoint, f"{site.name}.bias", model, holders),
        )
    return found
