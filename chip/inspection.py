"""What chip sees in a model and in a data directory: headers, configs and records, no weight. Imports no torch."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chip.hierarchy import NodePath
from chip.models.checkpoint import Checkpoint
from chip.models.families import Role
from chip.models.folders import resolve_model
from chip.models.listing import list_sites
from chip.records import read_records


@dataclass(frozen=True)
class SeenSite:
    """One site: its role, its language layer's or its tower layer's number (-1 for the projector), and the tensor of
    its weight: stored name, shape, dtype and file."""

    role: Role
    layer: int
    stored: str
    shape: tuple[int, ...]
    dtype: str
    file: str


@dataclass(frozen=True)
class SeenModel:
    """A model's family (`known` where it is in the table), its number of language layers, what its tensors take in
    bytes and in how many files, and its sites."""

    directory: Path
    family: str
    known: bool
    layers: int
    bytes: int
    files: int
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
    listing = list_sites(checkpoint)
    sites = tuple(
        SeenSite(one.role, one.layer, one.tensor.name, one.tensor.shape, one.tensor.dtype, one.tensor.file.name)
        for one in listing.sites
    )
    layers = 1 + max(one.layer for one in sites if one.role == "language")
    size = sum(tensor.stop - tensor.start for tensor in checkpoint.tensors.values())
    return SeenModel(checkpoint.directory, listing.family, listing.known, layers, size, len(checkpoint.files), sites)


def inspect_data(directory: Path) -> tuple[SeenNode, ...]:
    """Every node of a data directory, parents before children."""
    hierarchy = read_records(directory)
    records = Counter(path[:length] for path in hierarchy.paths for length in range(1, len(path) + 1))
    return tuple(SeenNode(node, hierarchy.level_of(node), records[node]) for node in sorted(hierarchy.nodes))
