"""A checkpoint on disk: a directory of safetensors files with its config. Imports no torch."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from chip.errors import ChipError
from chip.files import file_digest, journal_of
from chip.models.stored import StoredTensor, header_digest, read_header

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
INDEX = "model.safetensors.index.json"
_HASHING = 4
"""Tensors that are hashed at once."""


class Checkpoint:
    """A directory of safetensors shards with its config; opening it reads headers only.

    Raises ChipError where the directory is no checkpoint that chip can edit: no config, weights kept as pickles
    only, quantised weights, a damaged header, or an index that disagrees with its shards.
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
        self.tensors = self._read_tensors()

    def _read_config(self) -> dict[str, Any]:
        path = self.directory / "config.json"
        if not path.is_file():
            raise ChipError(f"{self.directory} holds no config.json, so it is no checkpoint that transformers can load")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise ChipError(f"{path} is not JSON: {problem}") from problem
        if not isinstance(config, dict) or "model_type" not in config:
            raise ChipError(f"{path} names no model_type")
        if "quantization_config" in config:
            raise ChipError(f"{self.directory} holds quantised weights; edit the unquantised model and quantise again")
        return config

    def _read_tensors(self) -> dict[str, StoredTensor]:
        shards = sorted(self.directory.glob("*.safetensors"))
        if not shards:
            pickles = [path.name for path in self.directory.iterdir() if path.suffix in PICKLES]
            if pickles:
                raise ChipError(
                    f"{self.directory} keeps its weights as pickles only ({pickles[0]}), which can run code when they "
                    "are loaded; save the model again with safe_serialization"
                )
            raise ChipError(f"{self.directory} holds no .safetensors file")
        tensors: dict[str, StoredTensor] = {}
        for shard in self._indexed(shards):
            for tensor in read_header(shard).tensors:
                if tensor.name in tensors:
                    raise ChipError(f"{tensor.name} stands in {tensors[tensor.name].file.name} and in {shard.name} too")
                tensors[tensor.name] = tensor
        return tensors

    def _indexed(self, shards: list[Path]) -> list[Path]:
        """The shards that the index names, where there is an index; a single file otherwise."""
        index, single = self.directory / INDEX, self.directory / "model.safetensors"
        if not index.is_file():
            if single in shards:
                return [single]
            if len(shards) == 1:
                return shards
            raise ChipError(f"{self.directory} holds {len(shards)} .safetensors files but no index that orders them")
        if single in shards:
            raise ChipError(f"{self.directory} holds both {single.name} and an index of shards; remove the stale one")
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            named = sorted(set(weight_map.values()))
        except (ValueError, KeyError, AttributeError, TypeError) as problem:
            raise ChipError(f"{index} is not an index of shards: {problem}") from problem
        if not named:
            raise ChipError(f"{index} names no shard")
        missing = [name for name in named if self.directory / str(name) not in shards]
        if missing:
            raise ChipError(f"{index} names {missing[0]}, which is not there")
        held = {tensor.name for name in named for tensor in read_header(self.directory / name).tensors}
        if absent := sorted(set(weight_map) - held):
            raise ChipError(f"{index} names {absent[0]}, which no shard holds")
        return [self.directory / name for name in named]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold tensors, in the order of their names."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

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
        return _files_digest({path for path in self.directory.iterdir() if path.name.startswith(shaping)})


def _files_digest(paths: set[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return total.hexdigest()
