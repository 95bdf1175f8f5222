"""The sites of a checkpoint as its config and the headers of its files tell them. Imports no torch.

What an edit changes is found in the module tree and proved by values; this listing is for people, at once. It names
tensors as the files do. Sub-models whose kind the config does not say are recognised by the names of their tensors.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.families import VISION, Role, family_table, find_entry, language_by_name, refuse_experts
from chip.models.stored import StoredTensor


@dataclass(frozen=True)
class ListedSite:
    """A linear layer that can be edited, by the tensor that its weight is stored as; layer: -1 for the projector."""

    role: Role
    layer: int
    tensor: StoredTensor


@dataclass(frozen=True)
class Listing:
    """A model's family (`known` where it is in the table) and its sites: the tower's, the projector's, each language
    layer's."""

    family: str
    known: bool
    sites: tuple[ListedSite, ...]


def list_sites(checkpoint: Checkpoint) -> Listing:
    """List a checkpoint's sites. Raises ChipError for a mixture of experts, and where no language layer is found."""
    config, files, table = checkpoint.config, _Files(checkpoint), family_table()
    name = str(config.get("model_type"))
    refuse_experts(name, checkpoint.tensors)
    if name in table["vision_families"]:
        family = table["vision_families"][name]
        tower = files.tower(family["tower"], _kinds(config, "vision_config", "towers"))
        projector = [one for linear in family["projector"] for one in files.projector(linear)]
        language = files.language(family["language"], _kinds(config, "text_config", "languages"))
        return Listing(name, True, _complete(name, (*tower, *projector, *language)))
    known = name in table["text_families"]
    modules = [one.removesuffix(".weight") for one in checkpoint.tensors]
    kind = find_entry("languages", name) if known else language_by_name(name, modules)
    assert kind is not None
    return Listing(name, known, _complete(name, files.language(table["text_families"].get(name, ""), [kind])))


def _kinds(config: Mapping[str, Any], part: str, table: str) -> Sequence[Mapping[str, Any]]:
    """What a sub-model may be: what the config says that it is, or anything in the table where it does not."""
    known = find_entry(table, str((config.get(part) or {}).get("model_type")))
    return [known] if known else [one for one in family_table()[table].values() if not isinstance(one, str)]


def _complete(family: str, sites: Iterable[ListedSite]) -> tuple[ListedSite, ...]:
    found = tuple(sites)
    if not any(site.role == "language" for site in found):
        raise ChipError(f"no language layer of the family {family!r} is found among the names of the stored tensors")
    return found


class _Files:
    """The tensors of a checkpoint, looked up by the endings of their names."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors = checkpoint.tensors

    def language(self, stem: str, kinds: Sequence[Mapping[str, Any]]) -> Iterator[ListedSite]:
        """Each layer's attention and MLP, of the first kind whose layers are there."""
        for kind in kinds:
            layers = self._layers(f"{stem}.{kind['layers']}", kind["layers"], kind["mlp"][-1], sees=False)
            for number, layer in enumerate(layers):
                if "skip" in kind and any(name.startswith(f"{layer}.{kind['skip']}.") for name in self._tensors):
                    continue
                for linear in (kind["attention"], *kind["mlp"]):
                    role: Role = "attention" if linear == kind["attention"] else "language"
                    yield from self._at(role, number, f"{layer}.{linear}")
            if layers:
                return

    def tower(self, stem: str, kinds: Sequence[Mapping[str, Any]]) -> Iterator[ListedSite]:
        """Each layer's MLP, of every list of layers of the first kind that is there."""
        for kind in kinds:
            lists = [self._layers(f"{stem}.{one}", one, kind["mlp"][-1], sees=True) for one in kind["layers"]]
            layers = list(dict.fromkeys(layer for one in lists for layer in one))
            for number, layer in enumerate(layers):
                for linear in kind["mlp"]:
                    yield from self._at("vision", number, f"{layer}.{linear}")
            if layers:
                return

    def projector(self, linear: str | Mapping[str, Any]) -> Iterator[ListedSite]:
        """One entry of a projector: a linear, a bare parameter, or the linears of a list of modules."""
        if isinstance(linear, str):
            yield from self._ending(f"{linear}.weight")
        elif "parameter" in linear:
            yield from self._ending(linear["parameter"])
        else:
            for number in count():
                names = [f"{linear['list']}.{number}.{last}.weight" for last in linear["linears"]]
                found = [site for name in names for site in self._ending(name)]
                if not found:
                    return
                yield from found

    def _at(self, role: Role, layer: int, linear: str) -> Iterator[ListedSite]:
        if f"{linear}.weight" in self._tensors:
            yield ListedSite(role, layer, self._tensors[f"{linear}.weight"])

    def _ending(self, name: str) -> Iterator[ListedSite]:
        """The projector's tensor of a name, whatever the files have before it instead of `model.`."""
        ending = name.removeprefix("model.")
        found = [one for one in self._tensors if one == ending or one.endswith(f".{ending}")]
        if found:
            yield ListedSite("projector", -1, self._tensors[found[0]])

    def _layers(self, name: str, layers: str, linear: str, *, sees: bool) -> list[str]:
        """The stored names of a list's layers, as far as they are numbered without a gap; of several lists that end in
        `layers`, the one that shares most parts with `name`."""
        pattern = re.compile(rf"((?:.*\.)?{re.escape(layers)})\.(\d+)\.{re.escape(linear)}\.weight")
        found: dict[str, set[int]] = {}
        for match in filter(None, map(pattern.fullmatch, self._tensors)):
            if VISION.isdisjoint(match[1].split(".")) != sees:
                found.setdefault(match[1], set()).add(int(match[2]))
        if not found:
            return []
        best = max(found, key=lambda one: len({*one.split(".")} & {*name.split(".")}))
        return [f"{best}.{number}" for number in takewhile(found[best].__contains__, count())]
