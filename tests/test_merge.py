"""Adapters merged into their base: the same weights and logits as PEFT's own merge, or a refusal by name."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny_fp8
import tiny_models
import torch
from checkpoint_files import changed_tensors, digests, stored_tensors
from command_line import chip_here
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from chip.edit import load_edit
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.workflow.merge import merge

MLP = ("gate_proj", "up_proj", "down_proj")


def adapt(base: Path, adapter: Path, **values: Any) -> Any:
    """Save an adapter with factors drawn by seed; PEFT's own merge of it, as a model."""
    auto = AutoModelForImageTextToText if (base / "processor_config.json").exists() else AutoModelForCausalLM
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": list(MLP), **values}
    model = peft.get_peft_model(auto.from_pretrained(base), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(adapter)
    return model.merge_and_unload()


def assert_merged(base: Path, out: Path, merged: Any) -> None:
    """The checkpoint loads as PEFT's merged model, parameter by parameter."""
    loaded = load_model(Checkpoint(out), "cpu").model
    expected = dict(merged.named_parameters())
    for name, parameter in loaded.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=1e-6)
    ids = torch.arange(3, 13)[None]
    torch.testing.assert_close(loaded(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    assert changed_tensors(base, out)


class TestMerged:
    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"use_rslora": True},
            {"rank_pattern": {"layers.1.mlp.down_proj": 2, "up_proj": 3}, "alpha_pattern": {"down_proj": 16}},
            {"rank_pattern": {"^model.layers.0.mlp.up_proj": 1}},
            {"layers_to_transform": [1]},
            {"target_modules": "all-linear"},
            {"target_modules": ["lm_head", "q_proj"]},
            {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "lora_dropout": 0.1},
            {"init_lora_weights": "gaussian", "lora_alpha": 0.5},
        ],
        ids=str,
    )
    def test_as_peft_merges_it(self, tmp_path: Path, llama_directory: Path, values: dict[str, Any]) -> None:
        merged = adapt(llama_directory, tmp_path / "adapter", **values)
        before = digests(llama_directory)
        merge(str(tmp_path / "adapter"), str(llama_directory), tmp_path / "out")
        assert_merged(llama_directory, tmp_path / "out", merged)
        assert digests(llama_directory) == before

    def test_biases_of_the_factors(self, tmp_path: Path) -> None:
        base = tiny_models.text_model(tmp_path / "base", "qwen2")
        merged = adapt(base, tmp_path / "adapter", target_modules=["q_proj", "k_proj"], lora_bias=True)
        merge(str(tmp_path / "adapter"), str(base), tmp_path / "out")
        assert_merged(base, tmp_path / "out", merged)
        assert any(name.endswith("bias") for name in changed_tensors(base, tmp_path / "out"))

    def test_a_model_whose_files_name_tensors_otherwise(self, tmp_path: Path, llava_directory: Path) -> None:
        merged = adapt(llava_directory, tmp_path / "adapter", target_modules=r".*language_model.*\.(down_proj|o_proj)")
        merge(str(tmp_path / "adapter"), str(llava_directory), tmp_path / "out")
        assert_merged(llava_directory, tmp_path / "out", merged)

    def test_shards_and_half_precision(self, tmp_path: Path) -> None:
        base = tiny_models.text_model(tmp_path / "base", "llama", dtype=torch.bfloat16, shard_size="40KB")
        merged = adapt(base, tmp_path / "adapter")
        merge(str(tmp_path / "adapter"), str(base), tmp_path / "out")
        found, expected = stored_tensors(tmp_path / "out"), merged.state_dict()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name].bfloat16(), rtol=2**-6, atol=2**-6)

    def test_into_fp8_with_its_error_told(self, tmp_path: Path) -> None:
        base = tiny_models.text_model(tmp_path / "base", "llama", dtype=torch.bfloat16)
        adapt(base, tmp_path / "adapter")
        tiny_fp8.quantise(base, tiny_fp8.LAYOUTS["deepseek"])
        done = merge(str(tmp_path / "adapter"), str(base), tmp_path / "out")
        assert "fp8 holds what was meant to a relative error of" in done.notices[0]
        load_model(Checkpoint(tmp_path / "out"), "cpu")

    def test_the_command_says_what_it_wrote_and_keeps_the_edit(self, tmp_path: Path, llama_directory: Path) -> None:
        adapt(llama_directory, tmp_path / "adapter")
        (tmp_path / "adapter" / "tokenizer_config.json").write_text("{}")
        out, kept = tmp_path / "out", tmp_path / "edit"
        done = chip_here(
            "merge", tmp_path / "adapter", "--base", llama_directory, "--out", out, "--edit-out", kept, "--json"
        )
        assert done.exit_code == 0
        said = json.loads(done.stdout)
        assert set(said["tensors"]) == changed_tensors(llama_directory, out) == set(load_edit(kept).tensors)
        assert "the base's are kept: tokenizer_config.json" in said["notices"][0]

    def test_merging_an_adapter_needs_no_torch(self, tmp_path: Path, llama_directory: Path) -> None:
        adapt(llama_directory, tmp_path / "adapter")
        code = (
            "import sys; from pathlib import Path; from chip.edit.merge import adapter_edit; "
            "from chip.models.checkpoint import Checkpoint; "
            f"adapter_edit(Path({str(tmp_path / 'adapter')!r}), Checkpoint({str(llama_directory)!r})); "
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"use_dora": True}, "uses use_dora, which chip cannot merge: use PEFT's merge_and_unload"),
            ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
            ({"trainable_token_indices": [1, 2]}, "uses trainable_token_indices"),
            ({"target_modules": ["embed_tokens", "down_proj"]}, "holds .*embed_tokens.* which chip cannot merge"),
        ],
        ids=str,
    )
    def test_what_is_more_than_a_sum(
        self, tmp_path: Path, llama_directory: Path, values: dict[str, Any], said: str
    ) -> None:
        adapt(llama_directory, tmp_path / "adapter", **values)
        self.refuses(tmp_path / "adapter", llama_directory, said)

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"peft_type": "IA3"}, "is of the kind 'IA3'"),
            ({"target_parameters": ["mlp.experts.down_proj"]}, "uses target_parameters"),
            ({"layer_replication": [[0, 2], [1, 3]]}, "uses layer_replication"),
            ({"fan_in_fan_out": True}, "uses fan_in_fan_out"),
            ({"something_new": True}, "uses something_new"),
            ({"init_lora_weights": "pissa_niter_4"}, "was begun by pissa_niter_4, which changes the base"),
            ({"r": 8}, r"holds no factors of rank 8 for model\.layers"),
            ({"r": 0}, "does not say what r and lora_alpha are"),
            ({"lora_alpha": None}, "does not say what r and lora_alpha are"),
            ({"rank_pattern": {"(a+)+b": 4}}, "holds a rank_pattern that is more than names"),
            ({"alpha_pattern": ["down_proj"]}, "holds a alpha_pattern that is more than names"),
        ],
        ids=str,
    )
    def test_configs(self, tmp_path: Path, llama_directory: Path, values: dict[str, Any], said: str) -> None:
        adapt(llama_directory, tmp_path / "adapter")
        path = tmp_path / "adapter" / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        self.refuses(tmp_path / "adapter", llama_directory, said)

    def test_a_head_that_is_tied_to_the_embeddings(self, tmp_path: Path) -> None:
        base = tiny_models.text_model(tmp_path / "base", "llama", tied=True)
        adapt(base, tmp_path / "adapter", target_modules=["lm_head"], ensure_weight_tying=False)
        self.refuses(tmp_path / "adapter", base, "which is the base's embeddings too")

    def test_another_base(self, tmp_path: Path, llama_directory: Path) -> None:
        adapt(llama_directory, tmp_path / "adapter")
        other = tiny_models.text_model(tmp_path / "other", "llama", intermediate_size=48)
        self.refuses(tmp_path / "adapter", other, "stores no tensor for model.layers.0.mlp.down_proj.weight")

    def test_half_a_pair_and_foreign_tensors(self, tmp_path: Path, llama_directory: Path) -> None:
        adapt(llama_directory, tmp_path / "adapter")
        path = tmp_path / "adapter" / "adapter_model.safetensors"
        whole = {name: value.clone() for name, value in load_file(path).items()}
        lost = next(name for name in whole if "lora_B" in name)
        save_file({name: value for name, value in whole.items() if name != lost}, path)
        self.refuses(tmp_path / "adapter", llama_directory, "holds no factors of rank 4 for")
        save_file({**whole, "base_model.model.lm_head.weight": torch.zeros(2, 2)}, path)
        self.refuses(tmp_path / "adapter", llama_directory, r"lm_head\.weight, F32, which chip cannot merge")
        save_file({**whole, "base_model.model.lm_head.base_layer.weight": torch.zeros(300, 32)}, path)
        self.refuses(tmp_path / "adapter", llama_directory, r"brings another lm_head\.weight than")
        path.unlink()
        self.refuses(tmp_path / "adapter", llama_directory, "save the adapter again as safetensors")

    def test_an_adapter_is_no_model_and_says_what_to_do(self, tmp_path: Path, llama_directory: Path) -> None:
        adapt(llama_directory, tmp_path / "adapter")
        with pytest.raises(ChipError, match="is an adapter, no whole model; merge it first: chip merge"):
            Checkpoint(tmp_path / "adapter")
        self.refuses(llama_directory, llama_directory, "holds no adapter_config.json")

    def test_a_model_with_an_adapter_laid_over_it(self, tmp_path: Path, llama_directory: Path) -> None:
        adapt(llama_directory, tmp_path / "adapter")
        for name in ("config.json", "model.safetensors"):
            (tmp_path / "adapter" / name).write_bytes((llama_directory / name).read_bytes())
        with pytest.raises(ChipError, match="holds an adapter beside a model"):
            Checkpoint(tmp_path / "adapter")

    def test_what_lies_within_what_is_read_or_written(self, tmp_path: Path, llama_directory: Path) -> None:
        adapt(llama_directory, tmp_path / "adapter")
        out = tmp_path / "out"
        for path in (out / "edit", llama_directory / "edit"):
            with pytest.raises(ChipError, match="lies inside"):
                merge(str(tmp_path / "adapter"), str(llama_directory), out, edit_out=path)
        with pytest.raises(ChipError, match="overlap"):
            merge(str(tmp_path / "adapter"), str(llama_directory), tmp_path / "adapter" / "out")
        assert not out.exists()

    def refuses(self, adapter: Path, base: Path, said: str) -> None:
        out = adapter.parent / "refused"
        with pytest.raises(ChipError, match=said):
            merge(str(adapter), str(base), out)
        assert not out.exists()
