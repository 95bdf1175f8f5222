"""The statistics file: what a collection left behind, tied by digests to the model and the records it came from.

A safetensors file with a JSON header (docs/formats.md), mode 0600: it holds node names, which are the data owner's.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save
from torch import Tensor

from chip.collect.sketch import Sketch
from chip.collect.statistics import Moments, PooledSums, Statistics
from chip.errors import ChipError
from chip.files import write_private
from chip.hierarchy import Hierarchy
from chip.records.digests import record_digest

FORMAT = "chip-statistics-1"


@dataclass(frozen=True)
class Provenance:
    """What statistics belong to: the checkpoint's digest, how it was run, and the digest of every record in order."""

    model: str
    dtype: str
    prompts: str
    levels: tuple[str, ...]
    records: tuple[str, ...]

    @classmethod
    def of(cls, model: str, dtype: str, prompts: str, hierarchy: Hierarchy) -> "Provenance":
        return cls(model, dtype, prompts, hierarchy.levels, tuple(map(record_digest, hierarchy.records)))

    def difference(self, other: "Provenance") -> str | None:
        """What differs from `other`, in words; None where nothing does."""
        if self.model != other.model:
            return "they are of another model"
        if self.dtype != other.dtype:
            return f"they were collected in {self.dtype}, not in {other.dtype}"
        if self.prompts != other.prompts:
            return "they were collected with another tokenizer, processor or chat template"
        if self.levels != other.levels:
            return f"their levels are {', '.join(self.levels)}"
        gone, new = Counter(self.records) - Counter(other.records), Counter(other.records) - Counter(self.records)
        if gone or new:
            absent, left_over = new.total(), gone.total()
            return f"{absent} records of the data are not in them, and {left_over} records in them are not in the data"
        return None


def save_statistics(statistics: Statistics, provenance: Provenance, path: Path) -> None:
    """Write a statistics file, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for name, sums in statistics.pooled.items():
        tensors |= {f"pooled/{name}/total": sums.total, f"pooled/{name}/absolute": sums.absolute}
        tensors |= {f"pooled/{name}/count": sums.count}
    for kind, moments in (("answer", statistics.answer), ("image", statistics.image)):
        for name, one in moments.items():
            if isinstance(one, Sketch):
                raise ChipError(f"{path}: {FORMAT} has no place for the sketch at {name}; give a larger memory budget")
            tensors |= {f"{kind}/{name}/outer": one.outer, f"{kind}/{name}/total": one.total}
    header = {
        "format": FORMAT,
        "model": provenance.model,
        "dtype": provenance.dtype,
        "prompts": provenance.prompts,
        "levels": provenance.levels,
        "records": provenance.records,
        "nodes": statistics.nodes,
        "alpha": statistics.alpha,
        "answer_counts": {name: one.count for name, one in statistics.answer.items()},
        "image_counts": {name: one.count for name, one in statistics.image.items()},
    }
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_private(path, save(contiguous, {"chip": json.dumps(header, ensure_ascii=False)}))


def load_statistics(path: Path) -> tuple[Statistics, Provenance]:
    """Read a statistics file. Raises ChipError where it is none, is truncated, or is of another version."""
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            header = json.loads((handle.metadata() or {})["chip"])
        if header["format"] != FORMAT:
            raise ChipError(f"{path} has the format {header['format']!r}; this version of chip reads {FORMAT}")
        return _parsed(header, load_file(path))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as problem:
        raise ChipError(f"{path} is no statistics file that chip wrote, or it is damaged ({problem})") from problem


def _parsed(header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Statistics, Provenance]:
    pooled = {
        name: PooledSums(*(tensors[f"pooled/{name}/{part}"] for part in ("total", "absolute", "count")))
        for name in _sites(tensors, "pooled")
    }
    answer, image = (_moments(tensors, header, kind) for kind in ("answer", "image"))
    statistics = Statistics(tuple(map(tuple, header["nodes"])), header["alpha"], pooled, answer, image)
    records, levels = tuple(header["records"]), tuple(header["levels"])
    return statistics, Provenance(header["model"], header["dtype"], header["prompts"], levels, records)


def _moments(tensors: dict[str, Tensor], header: dict[str, Any], kind: str) -> dict[str, Moments]:
    counts = header[f"{kind}_counts"]
    return {
        name: Moments(tensors[f"{kind}/{name}/outer"], tensors[f"{kind}/{name}/total"], counts[name])
        for name in _sites(tensors, kind)
    }


def _sites(tensors: dict[str, Tensor], kind: str) -> list[str]:
    found = (key.split("/")[1] for key in tensors if key.startswith(f"{kind}/"))
    return sorted(dict.fromkeys(found))
