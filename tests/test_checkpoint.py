"""Checkpoints as files: headers are read as torch reads them, and whatever is damaged or unfit is refused in words."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import stored_tensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.stored import read_header


def write_raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A file laid out like safetensors with any header, any claimed length and any bytes after it."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)
    return path


def entry(dtype: str, shape: list[Any], start: Any, stop: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def write_checkpoint(directory: Path, tensors: dict[str, torch.Tensor], name: str = "model.safetensors") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    save_file(tensors, directory / name, {"format": "pt"})
    return directory


class TestReading:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_values_equal_those_that_torch_reads(self, tmp_path: Path, dtype: torch.dtype) -> None:
        special = torch.tensor([0.0, -0.0, float("inf"), 1e-45, 6e-8, 65504.0, 1 / 3], dtype=torch.float64)
        values = torch.cat([special, torch.randn(53, dtype=torch.float64)]).view(6, 10).to(dtype)
        read = Checkpoint(write_checkpoint(tmp_path, {"w": values})).tensors["w"].read()
        assert read.shape == (6, 10)
        assert read.tobytes() == values.view(torch.uint8).numpy().tobytes()
        assert np.array_equal(read.astype(np.float64), values.double().numpy())

    def test_scalars_vectors_and_empty_tensors(self, tmp_path: Path) -> None:
        given = {"scalar": torch.tensor(2.0), "vector": torch.arange(3.0), "empty": torch.zeros(0, 4)}
        tensors = Checkpoint(write_checkpoint(tmp_path, given)).tensors
        assert {name: one.read().tolist() for name, one in tensors.items()} == {n: v.tolist() for n, v in given.items()}

    def test_integers_are_carried_along_but_cannot_be_edited(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint(write_checkpoint(tmp_path, {"ids": torch.arange(4)}))
        with pytest.raises(ChipError, match="ids is stored as I64, which chip cannot edit"):
            checkpoint.tensors["ids"].read()

    def test_shards_are_one_checkpoint(self, tmp_path: Path) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama", shard_size="40KB")
        assert len(list(directory.glob("*.safetensors"))) > 2
        expected, found = stored_tensors(directory), Checkpoint(directory).tensors
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name].read(), expected[name].numpy()) for name in expected)

    def test_a_digest_follows_every_byte_of_weights_and_config(self, tmp_path: Path) -> None:
        directory = write_checkpoint(tmp_path, {"w": torch.zeros(4)})
        seen = {Checkpoint(directory).digest}
        write_checkpoint(directory, {"w": torch.tensor([0.0, 0.0, 0.0, 1e-45])})
        seen.add(Checkpoint(directory).digest)
        tiny_models.change_config(directory, hidden_act="relu")
        seen.add(Checkpoint(directory).digest)
        assert len(seen) == 3
        (directory / "README.md").write_text("changes nothing")
        assert Checkpoint(directory).digest in seen

    def test_a_digest_of_prompts_follows_tokenizer_processor_and_template(self, tmp_path: Path) -> None:
        directory = tiny_models.llava(tmp_path / "model")
        seen = {Checkpoint(directory).prompts_digest}
        for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"):
            path = directory / name
            path.write_text(path.read_text() + " ")
            seen.add(Checkpoint(directory).prompts_digest)
        assert len(seen) == 5


class TestDamagedHeaders:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x01",
            b"\x08\x00\x00\x00\x00\x00\x00\x00",
            struct.pack("<Q", 2**63) + b"{}",
            struct.pack("<Q", 200_000_000) + b"{}",
            struct.pack("<Q", 0) + b"{}",
        ],
    )
    def test_lengths_that_do_not_fit_the_file(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        with pytest.raises(ChipError, match="is no safetensors file, or it is truncated"):
            read_header(path)

    @pytest.mark.parametrize(
        "header",
        [
            b"{not json",
            b"\xff\xfe\xfd",
            [],
            "text",
            7,
            {"w": []},
            {"w": 3},
            {"w": {"dtype": "F32", "shape": [2]}},
            {"w": {"shape": [2], "data_offsets": [0, 8]}},
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
            {"w": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}},
            {"w": entry("F32", [2], "0", "8")},
            {"w": entry("F32", [2], None, 8)},
            {"w": entry("F32", ["2"], 0, 8)},
            {"w": entry("F32", [2.0], 0, 8)},
            {"w": entry("F32", [2], 0.0, 8.0)},
            {"w": entry(["F32"], [2], 0, 8)},  # type: ignore[arg-type]
            {"w": entry("F32", [-1, -2], 0, 8)},
            {"w": entry("F32", [2**40, 2**40], 0, 8)},
            {"w": entry("F32", [3], 0, 8)},
            {"w": entry("F32", [2], -8, 0)},
            {"w": entry("F32", [2], 8, 0)},
            {"w": entry("F32", [20], 0, 80)},
            {"w": entry("F32", [2], 0, 8), "v": entry("F32", [2], 4, 12)},
            {"w": entry("F32", [2], 0, 8), "v": entry("F32", [2], 0, 8)},
            {"w": entry("F32", [2], 0, 8)},
            {"w": entry("F32", [2], 8, 16)},
            b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "shape": [4]}}',
            b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "w": {}}',
        ],
        ids=str,
    )
    def test_every_kind_of_nonsense_is_one_sentence(self, tmp_path: Path, header: Any) -> None:
        path = write_raw(tmp_path / "model.safetensors", header, bytes(16))
        with pytest.raises(ChipError, match=r"model\.safetensors"):
            read_header(path)

    def test_deeply_nested_nonsense_is_refused(self, tmp_path: Path) -> None:
        path = write_raw(tmp_path / "model.safetensors", b"[" * 100_000)
        with pytest.raises(ChipError, match=r"model\.safetensors"):
            read_header(path)

    def test_a_file_cut_short_is_refused(self, tmp_path: Path) -> None:
        directory = write_checkpoint(tmp_path, {"w": torch.randn(8, 8)})
        path = directory / "model.safetensors"
        content = path.read_bytes()
        for length in (0, 4, 8, 20, len(content) - 256, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(ChipError, match="truncated"):
                Checkpoint(directory)

    @given(st.binary(max_size=200))
    def test_no_bytes_whatsoever_give_anything_but_tensors_or_a_sentence(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes
    ) -> None:
        path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
        for data in (content, struct.pack("<Q", len(content)) + content):
            path.write_bytes(data)
            with contextlib.suppress(ChipError):
                read_header(path)


class TestUnfit:
    def test_pickles_only_are_refused_with_the_reason(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
        with pytest.raises(ChipError, match=r"pickles only \(pytorch_model\.bin\), which can run code"):
            Checkpoint(tmp_path)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"hidden_size": 3}'])
    def test_a_config_that_names_no_model(self, tmp_path: Path, content: str) -> None:
        write_checkpoint(tmp_path, {"w": torch.zeros(2)})
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ChipError, match=r"config\.json"):
            Checkpoint(tmp_path)

    def test_no_directory_no_config_no_weights(self, tmp_path: Path) -> None:
        with pytest.raises(ChipError, match="is not a directory"):
            Checkpoint(tmp_path / "absent")
        with pytest.raises(ChipError, match=r"holds no config\.json"):
            Checkpoint(tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        with pytest.raises(ChipError, match=r"holds no \.safetensors file"):
            Checkpoint(tmp_path)


class TestIndex:
    def shards(self, directory: Path, weight_map: Any) -> Path:
        write_checkpoint(directory, {"a": torch.zeros(2)}, "model-1.safetensors")
        write_checkpoint(directory, {"b": torch.zeros(2)}, "model-2.safetensors")
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        return directory

    def test_a_shard_that_is_missing_is_named(self, tmp_path: Path) -> None:
        self.shards(tmp_path, {"a": "model-1.safetensors", "c": "model-9.safetensors"})
        with pytest.raises(ChipError, match=r"names model-9\.safetensors, which is not there"):
            Checkpoint(tmp_path)

    def test_a_tensor_in_two_shards_is_refused(self, tmp_path: Path) -> None:
        self.shards(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
        save_file({"a": torch.ones(2), "b": torch.zeros(2)}, tmp_path / "model-2.safetensors")
        with pytest.raises(ChipError, match=r"a stands in model-1\.safetensors and in model-2\.safetensors too"):
            Checkpoint(tmp_path)

    def test_a_tensor_that_the_index_names_and_no_shard_holds_is_refused(self, tmp_path: Path) -> None:
        shards = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
        self.shards(tmp_path, shards)
        with pytest.raises(ChipError, match=r"model\.safetensors\.index\.json"):
            Checkpoint(tmp_path)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": ["b"]}}'])
    def test_an_index_that_is_none(self, tmp_path: Path, content: str) -> None:
        self.shards(tmp_path, {})
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(ChipError, match=r"index\.json is not (JSON|an index of shards)|names no shard"):
            Checkpoint(tmp_path)

    def test_shards_without_an_index_are_refused(self, tmp_path: Path) -> None:
        self.shards(tmp_path, {})
        (tmp_path / "model.safetensors.index.json").unlink()
        with pytest.raises(ChipError, match="no index that orders them"):
            Checkpoint(tmp_path)

    def test_a_shard_outside_the_directory_is_refused(self, tmp_path: Path) -> None:
        save_file({"a": torch.zeros(2)}, tmp_path / "outside.safetensors")
        self.shards(tmp_path / "model", {"a": "../outside.safetensors"})
        with pytest.raises(ChipError, match="which is not there"):
            Checkpoint(tmp_path / "model")

    def test_an_index_that_names_nothing_is_refused(self, tmp_path: Path) -> None:
        self.shards(tmp_path, {})
        with pytest.raises(ChipError, match=r"index\.json"):
            Checkpoint(tmp_path)
