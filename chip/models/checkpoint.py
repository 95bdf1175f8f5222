"""A checkpoint on disk: a directory of safetensors files with its config. Imports no torch."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from chip.errors import ChipError
from chip.files import file_digest, journal_of
from chip.models.matrix import Matrix, Plain, scaled
from chip.models.quantised import block_size, quantisation, refuse_quantised, refuse_quantised_tensors, scale_names
from chip.models.stored import DTYPES, StoredTensor, header_digest, read_header, read_json

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
INDEX = "model.safetensors.index.json"
_HASHING = 4
"""Tensors that are hashed at once."""


class Checkpoint:
    """A directory of safetensors shards with its config; opening it reads headers only.

    Raises ChipError where the directory is no checkpoint that chip can edit: no config, an adapter, weights kept as
    pickles only, quantised otherwise than as fp8, a damaged header, an index that disagrees with its shards, or a
    tensor that differs from shard to shard.
    """

    def __init__(self, directory: str | Path, *, unfinished: bool = False) -> None:
        """unfinished: open it even while it is being edited in place."""
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise ChipError(f"{directory} is not a directory; give the directory of a checkpoint")
        if journal_of(self.directory).exists() and not unfinished:
            raise ChipError(
                f"an edit of {directory} in place is under way or was interrupted; `chip recover {directory}` puts it "
                "back"
            )
        self.config = self._read_config()
        self._copies = self._read_tensors()
        self.tensors = {name: copies[0] for name, copies in self._copies.items()}
        self._opened = {file: _state(file) for file in self.files}

    @property
    def is_fp8(self) -> bool:
        """Whether some of its weights are stored as fp8 with scales."""
        return quantisation(self.config) is not None

    def matrix(self, name: str) -> Matrix:
        """A tensor as the values that it holds, with every copy of it and its scales.

        Raises ChipError where the tensor is not stored, or in no way that chip can edit.
        """
        if name not in self.tensors:
            raise ChipError(f"{self.directory} stores no tensor {name}")
        dtype = self.tensors[name].dtype
        if dtype not in DTYPES and dtype != "F8_E4M3":
            raise ChipError(f"{name} is stored as {dtype}, which chip cannot edit; convert it to bf16 first")
        if dtype in DTYPES:
            return Plain(self._copies[name])
        found = [scale for scale in scale_names(name) if scale in self.tensors]
        if len(found) != 1:
            raise ChipError(
                f"{name} is stored as fp8 with {len(found)} tensors of scales where one was expected "
                f"({' or '.join(scale_names(name))}); convert the model to bf16 first"
            )
        return scaled(self._copies[name], self._copies[found[0]], block_size(self.config))

    def _read_config(self) -> dict[str, Any]:
        path = self.directory / "config.json"
        adapter = self.directory / "adapter_config.json"
        if adapter.is_file() and path.is_file():
            raise ChipError(f"{self.directory} holds an adapter beside a model, which transformers would add to it")
        if adapter.is_file():
            merge = f"chip merge {self.directory} --base MODEL --out DIR"
            raise ChipError(f"{self.directory} is an adapter, no whole model; merge it first: {merge}")
        if not path.is_file():
            raise ChipError(f"{self.directory} holds no config.json, so it is no checkpoint that transformers can load")
        config = read_json(path)
        if not isinstance(config, dict) or "model_type" not in config:
            raise ChipError(f"{path} names no model_type")
        refuse_quantised(self.directory, config)
        return config

    def _read_tensors(self) -> dict[str, tuple[StoredTensor, ...]]:
        """Every tensor by its name: the copy that the index names, and those in other shards behind it."""
        shards = sorted(self.directory.glob("*.safetensors"))
        if not shards:
            raise ChipError(f"{self.directory} holds no .safetensors file{_instead(self.directory)}")
        named, weight_map = self._indexed(shards)
        held: dict[str, list[StoredTensor]] = {}
        for path in named:
            for tensor in read_header(path).tensors:
                held.setdefault(tensor.name, []).append(tensor)
        for name, shard in weight_map.items():
            copies = held.get(name, [])
            if shard not in [one.file.name for one in copies]:
                instead = f"but it lies in {copies[0].file.name}" if copies else "but no shard holds it"
                raise ChipError(f"{self.directory / INDEX} says that {name} lies in {shard}, {instead}")
            copies.sort(key=lambda one: one.file.name != shard)
        for copies in held.values():
            _refuse_different(copies)
        refuse_quantised_tensors(self.directory, held)
        return {name: tuple(copies) for name, copies in held.items()}

    def _indexed(self, shards: list[Path]) -> tuple[list[Path], dict[str, str]]:
        """The shards that the index names and what it says lies where; a single file otherwise.

        Tensors that lie in one of its shards without being named are read, as transformers does; shards that it does
        not name are not.
        """
        index, single = self.directory / INDEX, self.directory / "model.safetensors"
        if not index.is_file():
            if single in shards:
                return [single], {}
            if len(shards) == 1:
                return shards, {}
            raise ChipError(f"{self.directory} holds {len(shards)} .safetensors files but no index that orders them")
        if single in shards:
            raise ChipError(f"{self.directory} holds both {single.name} and an index of shards; remove the stale one")
        content = read_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ChipError(f"{index} is not an index of shards: its weight_map does not name a file for every tensor")
        if not weight_map:
            raise ChipError(f"{index} names no shard")
        known = {shard.name for shard in shards}
        if missing := sorted(set(weight_map.values()) - known):
            raise ChipError(f"{index} names {missing[0]}, which is not there")
        return [self.directory / name for name in sorted(set(weight_map.values()))], weight_map

    def changed(self) -> bool:
        """Whether one of its weight files is not the one any more that was opened, or was written to since."""
        return any(_state(file) != self._opened[file] for file in self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold tensors, in the order of their names."""
        return tuple(sorted({tensor.file for copies in self._copies.values() for tensor in copies}))

    @cached_property
    def tensor_digests(self) -> dict[str, str]:
        """SHA-256 of every tensor's bytes, by name."""
        with ThreadPoolExecutor(min(_HASHING, os.cpu_count() or 1)) as pool:
            return dict(zip(self.tensors, pool.map(StoredTensor.digest, self.tensors.values()), strict=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over config, headers and tensors: what statistics and edits are tied to."""
        total = hashlib.sha256(file_digest(self.directory / "config.json").encode())
        for file in self.files:
            total.update(f"{file.name}\0{header_digest(file)}\n".encode())
        for name, digest in sorted(self.tensor_digests.items()):
            total.update(f"{name}\0{digest}\n".encode())
        return total.hexdigest()

    @cached_property
    def prompts_digest(self) -> str:
        """SHA-256 over everything that shapes a prompt: tokenizer, processor and chat template files."""
        shaping = (
            "token",
            "vocab",
            "merges",
            "process",
            "preprocessor",
            "chat_template",
            "special",
            "added",
            "spiece",
            "sentencepiece",
            "video",
        )
        files = (path for path in self.directory.iterdir() if path.name.startswith(shaping))
        return _files_digest({path for path in files if path.is_file()})


def _state(file: Path) -> tuple[int, ...]:
    """What changes with a file that is replaced or written to; nothing of it where it is gone."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _files_digest(paths: set[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def _instead(directory: Path) -> str:
    """What a directory without safetensors keeps its weights as, and what to do about it."""
    for path in sorted(directory.iterdir()):
        if path.suffix == ".gguf":
            return f"; {path.name} is quantised as GGUF: edit the unquantised model, then convert it again"
        if path.suffix in PICKLES:
            return (
                f": it keeps its weights as pickles only ({path.name}), which can run code when they are loaded; save "
                "the model again with safe_serialization"
            )
    return ""


def _refuse_different(copies: list[StoredTensor]) -> None:
    """Raise ChipError where a tensor that stands in several shards is not the same in all of them."""
    first = copies[0]
    for other in copies[1:]:
        if (other.dtype, other.shape) != (first.dtype, first.shape) or other.digest() != first.digest():
            raise ChipError(
                f"{first.name} stands in {first.file.name} and in {other.file.name} too, with other values; remove one"
            )
