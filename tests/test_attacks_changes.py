"""Two versions of one model: which are refused, which not, and what differs between them."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from checkpoint_files import stored_tensors
from safetensors.torch import save_file
from tiny_fp8 import LAYOUTS, dequantised, quantise

from chip.audit.changes import changed_tensors, changes, refuse_unlike
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.progress import silent

Tensors = dict[str, torch.Tensor]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.text_model(tmp_path_factory.mktemp("tied") / "model", "llama", tied=True)


def version(model: Path, place: Path, change: Callable[[Tensors], Tensors]) -> Checkpoint:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(model, place)
    save_file(change(stored_tensors(model)), place / "model.safetensors", {"format": "pt"})
    return Checkpoint(place)


@pytest.mark.parametrize("turned", [False, True])
def test_a_tensor_that_only_one_of_them_holds_is_named(llama_directory: Path, tmp_path: Path, turned: bool) -> None:
    stash = version(llama_directory, tmp_path / "stash", lambda held: {**held, "kept.weight": held[EMBEDDING].clone()})
    pair = (stash, Checkpoint(llama_directory)) if turned else (Checkpoint(llama_directory), stash)
    with pytest.raises(ChipError, match=re.escape(f"only {stash.directory} holds kept.weight")):
        refuse_unlike(*pair)


def test_a_tied_output_layer_may_be_stored_by_one_of_them(tied: Path, tmp_path: Path) -> None:
    twin = version(tied, tmp_path / "twin", lambda held: {**held, HEAD: held[EMBEDDING].clone()})
    refuse_unlike(Checkpoint(tied), twin)
    refuse_unlike(twin, Checkpoint(tied))
    assert changed_tensors(twin, Checkpoint(tied)) == changed_tensors(Checkpoint(tied), twin) == ()


def test_an_output_layer_of_its_own_may_not(tied: Path, llama_directory: Path, tmp_path: Path) -> None:
    other = version(tied, tmp_path / "other", lambda held: {**held, HEAD: held[EMBEDDING] + 1})
    with pytest.raises(ChipError, match=HEAD):
        refuse_unlike(Checkpoint(tied), other)
    without = version(
        llama_directory, tmp_path / "without", lambda held: {name: one for name, one in held.items() if name != HEAD}
    )
    with pytest.raises(ChipError, match=HEAD):
        refuse_unlike(Checkpoint(llama_directory), without)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_in_fp8_and_the_same_in_full_differ_by_nothing(
    llama_directory: Path, tmp_path: Path, layout: str
) -> None:
    fp8 = Checkpoint(quantise(Path(shutil.copytree(llama_directory, tmp_path / "fp8")), LAYOUTS[layout]))
    suffix = LAYOUTS[layout].suffix
    full = version(
        llama_directory,
        tmp_path / "full",
        lambda held: {
            name: dequantised(codes[name], codes[f"{name}{suffix}"]) if f"{name}{suffix}" in codes else one
            for codes in [stored_tensors(fp8.directory)]
            for name, one in held.items()
        },
    )
    refuse_unlike(full, fp8)
    for one in changes(fp8, full, silent):
        assert one.relative < 1e-6
    assert changes(fp8, fp8, silent) == ()


def test_a_change_of_scales_is_a_change_of_the_weight(llama_directory: Path, tmp_path: Path) -> None:
    fp8 = quantise(Path(shutil.copytree(llama_directory, tmp_path / "fp8")), LAYOUTS["deepseek"])
    name = "model.layers.0.mlp.down_proj.weight"
    doubled = version(
        fp8, tmp_path / "doubled", lambda held: {**held, f"{name}_scale_inv": held[f"{name}_scale_inv"] * 2}
    )
    (found,) = changes(Checkpoint(fp8), doubled, silent)
    assert found.tensor == name
    assert found.relative == pytest.approx(1.0)
