"""The statistics file: what a collection left behind, tied by digests to the model and the records it came from.

A safetensors file with a JSON header (docs/formats.md), mode 0600: it holds node names, which are the data owner's.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from chip.collect.sketch import Sketch
from chip.collect.statistics import Moments, PooledSums, SecondMoments, Statistics
from chip.collect.tensors import UNREADABLE, read_header, write_tensors
from chip.errors import ChipError

FORMAT = "chip-statistics-2"

_POOLED = ("total", "absolute", "count")
_KINDS = ("answer", "image")


@dataclass(frozen=True)
class Provenance:
    """What statistics belong to: the checkpoint's digest, how it was run, and the digest of every record in order.

    records: those that were counted, of which no node has more than `most_per_node` where that is a number.
    """

    model: str
    dtype: str
    prompts: str
    levels: tuple[str, ...]
    records: tuple[str, ...]
    most_per_node: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), ensure_ascii=False).encode()).hexdigest()

    def difference(self, other: "Provenance") -> str | None:
        """What differs from `other` that makes these statistics useless to it, in words; None where nothing does.

        Records that `other` has beside these are no such difference: they can be collected and added.
        """
        if self.model != other.model:
            return "they are of another model"
        if self.dtype != other.dtype:
            return f"they were collected in {self.dtype}, not in {other.dtype}"
        if self.prompts != other.prompts:
            return "they were collected with another tokenizer, processor or chat template"
        if self.levels != other.levels:
            return f"their levels are {', '.join(self.levels)}"
        if self.most_per_node != other.most_per_node:
            counted = "every record" if self.most_per_node is None else f"at most {self.most_per_node} records a node"
            return f"they count {counted}"
        if gone := Counter(self.records) - Counter(other.records):
            new = Counter(other.records) - Counter(self.records)
            return (
                f"{gone.total()} records in them are not in the data, or not as they were, "
                f"and {new.total()} records of the data are not in them"
            )
        return None

    def related(self, other: "Provenance") -> bool:
        """Whether these are statistics of the same model, and of some of the same records, before or after a change."""
        return self.model == other.model and bool({*self.records} & {*other.records})

    def lacking(self, other: "Provenance") -> tuple[int, ...]:
        """Which of `other`'s records, by their place among them, these statistics do not count."""
        left = Counter(self.records)
        found = []
        for place, digest in enumerate(other.records):
            if left[digest]:
                left[digest] -= 1
            else:
                found.append(place)
        return tuple(found)


def save_statistics(statistics: Statistics, provenance: Provenance, path: Path) -> None:
    """Write a statistics file, whole or not at all."""
    tensors = {
        f"pooled/{name}/{part}": getattr(sums, part) for name, sums in statistics.pooled.items() for part in _POOLED
    }
    numbers: dict[str, dict[str, Any]] = {}
    for kind in _KINDS:
        for name, one in getattr(statistics, kind).items():
            held, numbers[f"{kind}/{name}"] = _divided(one)
            tensors |= {f"{kind}/{name}/{part}": tensor for part, tensor in held.items()}
    header = {"format": FORMAT, **asdict(provenance), "alpha": statistics.alpha, "moments": numbers}
    # What there is one of for every record stands apart: a header may not grow beyond 100 MB.
    del header["records"]
    tensors["records"] = torch.tensor([list(bytes.fromhex(one)) for one in provenance.records], dtype=torch.uint8)
    tensors["nodes"] = torch.tensor(list(json.dumps(statistics.nodes, ensure_ascii=False).encode()), dtype=torch.uint8)
    write_tensors(path, tensors, header)


def load_statistics(path: Path) -> tuple[Statistics, Provenance]:
    """Read a statistics file. Raises ChipError where it is none, is truncated, or is of another version."""
    try:
        header = read_header(path)
        if header["format"] != FORMAT:
            raise ChipError(f"{path} has the format {header['format']!r}; this version of chip reads {FORMAT}")
        return _parsed(header, load_file(path))
    except UNREADABLE as problem:
        raise ChipError(f"{path} is no statistics file that chip wrote, or it is damaged ({problem})") from problem


def _divided(one: SecondMoments) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Second moments as tensors and plain numbers."""
    if isinstance(one, Moments):
        return {"outer": one.outer, "total": one.total}, {"count": one.count}
    numbers = {"count": one.count, "residual": one.residual, "energy": one.energy, "excess": one.excess}
    return {"rows": one.rows, "total": one.total}, numbers


def _parsed(header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Statistics, Provenance]:
    nodes = tuple(map(tuple, json.loads(tensors["nodes"].numpy().tobytes())))
    names = dict.fromkeys(key.split("/")[1] for key in tensors if key.startswith("pooled/"))
    pooled = {name: _pooled(tensors, name, len(nodes)) for name in sorted(names)}
    answer, image = (_moments(tensors, header["moments"], kind) for kind in _KINDS)
    alpha = header["alpha"]
    _hold(isinstance(alpha, int | float) and 0 <= alpha <= 1, "alpha is no weight")
    statistics = Statistics(nodes, float(alpha), pooled, answer, image)
    records = tuple(digest.tobytes().hex() for digest in tensors["records"].numpy())
    levels = tuple(header["levels"])
    return statistics, Provenance(
        header["model"], header["dtype"], header["prompts"], levels, records, header["most_per_node"]
    )


def _pooled(tensors: Mapping[str, Tensor], name: str, nodes: int) -> PooledSums:
    total, absolute, count = (tensors[f"pooled/{name}/{part}"] for part in _POOLED)
    _hold(total.shape == absolute.shape and total.dim() == 2, f"the sums at {name} are of different shapes")
    _hold(len(total) == nodes and count.shape == (nodes,), f"the sums at {name} are of other nodes")
    _hold(bool((count >= 0).all()), f"a count at {name} is negative")
    return PooledSums(total, absolute, count)


def _moments(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], kind: str) -> dict[str, SecondMoments]:
    found: dict[str, SecondMoments] = {}
    for key in sorted(key for key in numbers if key.startswith(f"{kind}/")):
        name, held, total = key.removeprefix(f"{kind}/"), numbers[key], tensors[f"{key}/total"]
        sketched = f"{key}/rows" in tensors
        main = tensors[f"{key}/rows" if sketched else f"{key}/outer"]
        _hold(main.dim() == 2 and total.shape == main.shape[1:], f"the second moment at {name} has another shape")
        _hold(sketched or main.shape[0] == main.shape[1], f"the second moment at {name} is not square")
        _hold(all(bool(one.isfinite().all()) for one in (main, total)), f"the second moment at {name} is not finite")
        _hold(isinstance(held["count"], int) and held["count"] >= 0, f"the count at {name} is none")
        _hold(all(isinstance(number, int | float) and number >= 0 for number in held.values()), f"numbers at {name}")
        found[name] = Sketch(main, total, **held) if sketched else Moments(main, total, **held)
    return found


def _hold(true: bool, otherwise: str) -> None:
    """Raise ValueError where a file does not hold what it must."""
    if not true:
        raise ValueError(otherwise)
