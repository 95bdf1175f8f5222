"""Checkpoints that are not as they should be: edited rightly all the same, or refused in words."""

import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import header_bytes, stored_tensors
from edits import run_edit
from safetensors.torch import save_file
from test_checkpoint import write_checkpoint, write_raw

from chip.edit import Applying, Change, Edit, StagedCheckpoint
from chip.edit.outputs import files_left_behind
from chip.errors import ChipError
from chip.inspection import inspect_model
from chip.models.checkpoint import INDEX, Checkpoint
from chip.models.loading import load_model
from chip.models.sites import stored_sites


def sharded(directory: Path, shards: dict[str, dict[str, torch.Tensor]], weight_map: dict[str, str]) -> Path:
    """A checkpoint of shards by name, with an index that says what it says."""
    for name, tensors in shards.items():
        write_checkpoint(directory, tensors, name)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def adding(name: str, shape: tuple[int, ...], value: float = 1.0) -> Edit:
    """An edit that adds the same to every value of a tensor."""
    return Edit("test", {}, (Change(name, np.full((shape[0], int(np.prod(shape[1:]))), value, np.float32), None),))


def write(directory: Path, edit: Edit, out: Path) -> dict[str, torch.Tensor]:
    with StagedCheckpoint(Checkpoint(directory), Applying([edit]), out) as staged:
        staged.commit()
    return stored_tensors(out)


A, B = "model-1.safetensors", "model-2.safetensors"


class TestShards:
    def test_every_copy_of_a_tensor_is_edited(self, tmp_path: Path) -> None:
        a, b, c = torch.randn(3, 2), torch.randn(2), torch.randn(4)
        base = sharded(tmp_path / "m", {A: {"a": a, "b": b}, B: {"a": a, "c": c}}, {"a": B, "b": A, "c": B})
        assert Checkpoint(base).tensors["a"].file.name == B
        write(base, adding("a", (3, 2)), tmp_path / "out")
        for shard in (A, B):
            with_a = stored_tensors_of(tmp_path / "out" / shard)
            assert torch.equal(with_a["a"], a + 1)
        assert torch.equal(stored_tensors_of(tmp_path / "out" / B)["c"], c)

    @pytest.mark.parametrize("other", [torch.zeros(3, 2), torch.ones(2, 3), torch.ones(3, 2).half()])
    def test_copies_that_differ_are_refused(self, tmp_path: Path, other: torch.Tensor) -> None:
        base = sharded(tmp_path, {A: {"a": torch.ones(3, 2)}, B: {"a": other}}, {"a": A})
        assert files_left_behind(Checkpoint(base)) == [B]  # what no index names is another weight file
        sharded(base, {B: {"a": other, "b": torch.ones(1)}}, {"a": A, "b": B})
        with pytest.raises(ChipError, match=rf"a stands in {A} and in {B} too, with other values; remove one"):
            Checkpoint(base)

    def test_an_index_that_names_another_shard_is_refused(self, tmp_path: Path) -> None:
        base = sharded(tmp_path, {A: {"a": torch.ones(2)}, B: {"b": torch.ones(2)}}, {"a": B, "b": A})
        with pytest.raises(ChipError, match=rf"{INDEX} says that a lies in {B}, but it lies in {A}"):
            Checkpoint(base)

    def test_a_tensor_that_the_index_forgets_is_read_and_edited(self, tmp_path: Path) -> None:
        """Transformers reads whole shards, so that it is part of the model."""
        base = sharded(
            tmp_path / "m", {A: {"a": torch.ones(2)}, B: {"b": torch.ones(2), "c": torch.ones(2)}}, {"a": A, "b": B}
        )
        after = write(base, adding("c", (2,)), tmp_path / "out")
        assert after["c"].tolist() == [2.0, 2.0]
        assert after["b"].tolist() == [1.0, 1.0]

    def test_a_shard_written_twice_by_a_trainer_edits_as_one(self, tmp_path: Path, text_data: Path) -> None:
        """A whole model whose shards overlap: the edit reaches what transformers loads, whichever copy it takes."""
        model = tiny_models.text_model(tmp_path / "model", "llama", shard_size="40KB")
        weight_map = json.loads((model / INDEX).read_text())["weight_map"]
        name = "model.layers.2.mlp.down_proj.weight"
        other = next(shard for shard in sorted(set(weight_map.values())) if shard != weight_map[name])
        tensors = stored_tensors_of(model / other) | {name: stored_tensors(model)[name].clone()}
        save_file({key: value.clone() for key, value in tensors.items()}, model / other, {"format": "pt"})
        done = run_edit(model, text_data, tmp_path / "out", "patient_1")
        assert name in done.planned
        reloaded = load_model(Checkpoint(done.out), "cpu")
        assert stored_sites(reloaded.model, Checkpoint(done.out), reloaded.sites)


class TestHeaders:
    @pytest.mark.parametrize("padding", [b"", b" ", b"     ", b"\n\t "])
    def test_unaligned_and_padded_headers_are_kept_byte_for_byte(self, tmp_path: Path, padding: bytes) -> None:
        header = b'{"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}' + padding
        directory = tmp_path / "m"
        directory.mkdir()
        (directory / "config.json").write_text('{"model_type": "llama"}')
        values = np.arange(6, dtype=np.float32)
        write_raw(directory / "model.safetensors", header, values.tobytes())
        after = write(directory, adding("w", (2, 3)), tmp_path / "out")
        assert after["w"].flatten().tolist() == (values + 1).tolist()
        assert header_bytes(tmp_path / "out" / "model.safetensors") == struct.pack("<Q", len(header)) + header

    @pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
    def test_tensors_of_no_size(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        directory = write_checkpoint(tmp_path / "m", {"empty": torch.zeros(shape), "w": torch.ones(2)})
        after = write(directory, adding("w", (2,)), tmp_path / "out")
        assert after["empty"].shape == shape
        after = write(directory, adding("empty", shape), tmp_path / "again")
        assert after["w"].tolist() == [1.0, 1.0]

    def test_a_scalar_is_carried_and_no_edit_of_it_fits(self, tmp_path: Path) -> None:
        directory = write_checkpoint(tmp_path / "m", {"scalar": torch.tensor(2.0), "w": torch.ones(2)})
        assert write(directory, adding("w", (2,)), tmp_path / "out")["scalar"] == 2
        with pytest.raises(ChipError, match="does not fit its shape"):
            write(directory, adding("scalar", (1, 1)), tmp_path / "again")


class TestFiles:
    def test_what_is_no_file_is_neither_read_nor_carried_and_is_said(self, tmp_path: Path) -> None:
        directory = write_checkpoint(tmp_path / "m", {"w": torch.ones(2)})
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "diary.txt").write_text("private")
        os.mkfifo(directory / "pipe.json")
        os.mkfifo(directory / "tokenizer_pipe")
        (directory / "deep").mkdir()
        os.mkfifo(directory / "deep" / "pipe")
        (directory / "elsewhere").symlink_to(tmp_path / "secret")
        (directory / "nowhere").symlink_to(tmp_path / "gone")
        (directory / "round").symlink_to(directory)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(directory / "socket"))
            checkpoint = Checkpoint(directory)
            expected = {"pipe.json", "tokenizer_pipe", "deep/pipe", "elsewhere", "nowhere", "round", "socket"}
            assert set(files_left_behind(checkpoint)) == expected
            assert checkpoint.prompts_digest
            write(directory, adding("w", (2,)), tmp_path / "out")
        written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert written == {"config.json", "model.safetensors"}

    def test_a_device_for_a_file_is_refused(self, tmp_path: Path) -> None:
        directory = write_checkpoint(tmp_path / "m", {"w": torch.ones(2)})
        for name in ("model.safetensors", "config.json"):
            kept = (directory / name).read_bytes()
            for device in ("/dev/zero", str(tmp_path / "gone"), str(tmp_path)):
                (directory / name).unlink()
                (directory / name).symlink_to(device)
                with pytest.raises(ChipError):
                    Checkpoint(directory)
            (directory / name).unlink()
            (directory / name).write_bytes(kept)
        os.mkfifo(directory / INDEX)
        assert Checkpoint(directory).tensors

    def test_files_of_a_hub_cache_are_followed(self, tmp_path: Path) -> None:
        real = write_checkpoint(tmp_path / "blobs", {"w": torch.ones(2)})
        directory = tmp_path / "snapshot"
        directory.mkdir()
        for path in real.iterdir():
            (directory / path.name).symlink_to(path)
        assert write(directory, adding("w", (2,)), tmp_path / "out")["w"].tolist() == [2.0, 2.0]
        assert not (tmp_path / "out" / "model.safetensors").is_symlink()
        assert stored_tensors(real)["w"].tolist() == [1.0, 1.0]


class TestQuantised:
    @pytest.mark.parametrize(
        ("config", "method"),
        [
            ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
            ({"quant_method": "awq"}, "AWQ"),
            ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
            ({"load_in_8bit": True}, "bitsandbytes"),
            ({"quant_method": "gguf"}, "GGUF"),
            ({"quant_method": "hqq"}, "HQQ"),
            ({"quant_method": "mxfp4"}, "MXFP4"),
            ({"quant_method": "torchao"}, "torchao"),
            ({"quant_method": "fp8", "expert_dtype": "fp4"}, "fp8"),
            (
                {"quant_method": "compressed-tensors", "format": "pack-quantized"},
                r"compressed-tensors \(pack-quantized\)",
            ),
            (
                {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}},
                },
                r"compressed-tensors \(int4\)",
            ),
            ({}, "a method that its config does not name"),
            ([], "a method that its config does not name"),
        ],
        ids=str,
    )
    def test_each_is_told_by_its_name_with_what_to_do(self, tmp_path: Path, config: Any, method: str) -> None:
        write_checkpoint(tmp_path, {"w": torch.zeros(2)})
        said = rf"holds weights quantised by {method}.*; edit the unquantised model, then quantise it again"
        tiny_models.change_config(tmp_path, quantization_config=config)
        with pytest.raises(ChipError, match=said):
            Checkpoint(tmp_path)
        tiny_models.change_config(tmp_path, quantization_config=None, text_config={"quantization_config": config})
        with pytest.raises(ChipError, match=said):
            Checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ("name", "method"),
        [("x.qweight", "GPTQ or AWQ"), ("x.weight_packed", "compressed-tensors"), ("x.SCB", "bitsandbytes"),
         ("x.weight.quant_state.bitsandbytes__nf4", "bitsandbytes")],
    )  # fmt: skip
    def test_tensors_tell_where_the_config_does_not(self, tmp_path: Path, name: str, method: str) -> None:
        write_checkpoint(tmp_path, {name: torch.zeros(2, dtype=torch.uint8)})
        with pytest.raises(ChipError, match=f"quantised by {method}"):
            Checkpoint(tmp_path)

    def test_gguf_alone(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
        with pytest.raises(ChipError, match=r"Q4_K_M\.gguf is quantised as GGUF: edit the unquantised model"):
            Checkpoint(tmp_path)
        with pytest.raises(ChipError, match="is a file, quantised as GGUF; edit the unquantised model"):
            inspect_model(str(tmp_path / "model-Q4_K_M.gguf"))


class TestTies:
    def test_a_site_that_shares_its_parameter_is_refused(self, tmp_path: Path) -> None:
        model = tiny_models.text_model(tmp_path / "model", "llama")
        loaded = load_model(Checkpoint(model), "cpu")
        layers = loaded.model.model.layers
        layers[2].mlp.down_proj.weight = layers[0].mlp.down_proj.weight
        said = r"model\.layers\.0\.mlp\.down_proj\.weight and model\.layers\.2\.\S+ are one and the same parameter"
        with pytest.raises(ChipError, match=said):
            stored_sites(loaded.model, Checkpoint(model), loaded.sites)
        others = [site for site in loaded.sites if site.linear != "down_proj"]
        assert len(stored_sites(loaded.model, Checkpoint(model), others)) == len(others)

    def test_tied_embeddings_do_not_hinder(self, tmp_path: Path, text_data: Path) -> None:
        model = tiny_models.text_model(tmp_path / "model", "llama", tied=True)
        done = run_edit(model, text_data, tmp_path / "out", "patient_1")
        assert done.changed == done.planned


def stored_tensors_of(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(path))
