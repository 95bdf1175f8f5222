"""What chip sees in a model and in a data directory, without loading a weight."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chip.hierarchy import NodePath
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_skeleton, resolve_model
from chip.models.naming import find_stored
from chip.models.sites import Role, layer_count
from chip.records import read_records


@dataclass(frozen=True)
class SeenSite:
    """One site: its module name, its role, its weight's shape and dtype, and where that is stored."""

    name: str
    role: Role
    shape: tuple[int, ...]
    dtype: str
    stored: str
    file: str


@dataclass(frozen=True)
class SeenModel:
    """A model's family (`known` where it is in the table), its number of language layers and its sites."""

    directory: Path
    family: str
    known: bool
    layers: int
    sites: tuple[SeenSite, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**asdict(self), "directory": str(self.directory)}


@dataclass(frozen=True)
class SeenNode:
    """A node, the name of its level, and how many records stand at it or below."""

    path: NodePath
    level: str
    records: int

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def inspect_model(model: str) -> SeenModel:
    """Family and sites of a model, from its config and the headers of its files."""
    checkpoint = Checkpoint(resolve_model(model))
    skeleton, family, sites = load_skeleton(checkpoint)
    seen = []
    for site in sites:
        shape = tuple(skeleton.get_parameter(site.parameter).shape)
        stored = find_stored(checkpoint, site.parameter, shape)
        seen.append(
            SeenSite(site.name, site.role, stored.shape, stored.dtype, stored.name, stored.tensors[0].file.name)
        )
    return SeenModel(checkpoint.directory, family.name, family.known, layer_count(sites), tuple(seen))


def inspect_data(directory: Path) -> tuple[SeenNode, ...]:
    """Every node of a data directory, parents before children."""
    hierarchy = read_records(directory)
    records = Counter(path[:length] for path in hierarchy.paths for length in range(1, len(path) + 1))
    return tuple(SeenNode(node, hierarchy.level_of(node), records[node]) for node in sorted(hierarchy.nodes))
