"""LoRA adapters as edits: what an adapter adds to its base model, written like any other edit. Imports no torch.

An adapter directory (https://huggingface.co/docs/peft/developer_guides/checkpoint) holds `adapter_config.json` and, in
`adapter_model.safetensors`, factors A (r, d) and B (D, r) of every layer that it adapts: the weight gains (alpha/r) B A
(Hu et al., https://arxiv.org/abs/2106.09685), with rslora (alpha/√r) B A. Whatever else an adapter may say changes what
it does to the model, so that all that is not known to be harmless is refused by name.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chip.edit.change import Change
from chip.edit.edit import Edit
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.matrix import Matrix
from chip.models.naming import find_stored
from chip.models.stored import DTYPES, Array, StoredTensor, read_header, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT = "PEFT's merge_and_unload"
_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"}
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
"""Says where adapters sit, how they were begun or trained; the tensors that are there say the rest."""

_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin the factors that leave the base model's weights as they are."""

_FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])\.(?P<kind>weight|bias)")
_BASE = re.compile(r"(?:base_model\.model\.)?(?P<module>.+\.)base_layer\.(?P<kind>weight|bias)")
_LARGEST = 2**63
_LITERAL = re.compile(r"\^?[\w.-]+")


def adapter_edit(adapter: Path, base: Checkpoint) -> Edit:
    """What an adapter adds to the tensors of its base model.

    Raises ChipError where the directory holds no LoRA adapter, or one that does more than add to weights and biases of
    linear layers, and where it does not fit the base.
    """
    config = read_adapter(adapter)
    parts, kept = _factors(adapter)
    tied = _ties_head(base.config)
    changes: list[Change] = []
    matrices: list[Matrix] = []
    for module, factors in sorted(parts.items()):
        if tied and module.rpartition(".")[2] == "lm_head":
            raise ChipError(f"{adapter} adapts {module}, which is the base's embeddings too; merge it with {_PEFT}")
        for name, left, right in _added(adapter, config, module, factors):
            matrix = find_stored(base, name, (len(left),) if right is None else (len(left), right.shape[1]))
            matrices.append(matrix)
            changes.append(Change(matrix.name, left, right, parameter=name))
    for name, tensor in kept.items():
        if not np.array_equal(find_stored(base, name, tensor.shape).read(), tensor.read()):
            raise ChipError(f"{adapter} brings another {name} than {base.directory} stores: use {_PEFT}")
    settings = {"adapted": len(parts), "r": config["r"], "lora_alpha": config["lora_alpha"]}
    return Edit("merge", settings, tuple(changes), {matrix.name: matrix.digest() for matrix in matrices})


def read_adapter(adapter: Path) -> dict[str, Any]:
    """The config of a LoRA adapter. Raises ChipError where it is none, or does what cannot be merged."""
    path = adapter / CONFIG
    if not path.is_file():
        raise ChipError(f"{adapter} holds no {CONFIG}, so it is no adapter that could be merged")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ChipError(
            f"{path} is of the kind {kind!r}; chip merges LORA alone: merge it with PEFT's merge_and_unload"
        )
    for name in sorted(name for name in config.keys() - _READ - _HARMLESS if config[name] and config[name] != "none"):
        raise ChipError(f"{path} uses {name}, which chip cannot merge: use {_PEFT}")
    if config.get("init_lora_weights", True) not in _PLAIN_BEGINNINGS:
        raise ChipError(
            f"{path} was begun by {config['init_lora_weights']}, which changes the base model too; save it again with "
            "PEFT's path_initial_model_for_weight_conversion"
        )
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.setdefault(name, {}) or {}
        if not isinstance(pattern, dict) or not all(map(_LITERAL.fullmatch, pattern)):
            raise ChipError(f"{path} holds a {name} that is more than names; chip cannot merge it")
        config[name] = pattern
    numbers = [config.get("r"), config.get("lora_alpha"), *config["rank_pattern"].values()]
    if not all(_is_positive(one) for one in [*numbers, *config["alpha_pattern"].values()]):
        raise ChipError(f"{path} does not say what r and lora_alpha are")
    return config


def _factors(adapter: Path) -> tuple[dict[str, dict[str, StoredTensor]], dict[str, StoredTensor]]:
    """The adapter's tensors by module, and then by `A.weight`, `B.weight` and `B.bias`; and the base's own parameters
    that PEFT keeps beside the factors of heads, by name."""
    path = adapter / WEIGHTS
    if not path.is_file():
        raise ChipError(f"{adapter} holds no {WEIGHTS}; save the adapter again as safetensors")
    found: dict[str, dict[str, StoredTensor]] = {}
    kept: dict[str, StoredTensor] = {}
    for tensor in read_header(path).tensors:
        fits, own = _FACTOR.fullmatch(tensor.name), _BASE.fullmatch(tensor.name)
        if (fits is None and own is None) or tensor.dtype not in DTYPES:
            raise ChipError(f"{path} holds {tensor.name}, {tensor.dtype}, which chip cannot merge: use {_PEFT}")
        if own is not None:
            kept[own["module"] + own["kind"]] = tensor
        elif fits is not None:
            found.setdefault(fits["module"], {})[f"{fits['side']}.{fits['kind']}"] = tensor
    if not found:
        raise ChipError(f"{path} holds no factors, so there is nothing to merge")
    return found, kept


def _added(
    adapter: Path, config: Mapping[str, Any], module: str, factors: Mapping[str, StoredTensor]
) -> list[tuple[str, Array, Array | None]]:
    """What a module's weight gains, and its bias where that gains anything: parameter, left and right factor."""
    rank, alpha = (
        _of(config["rank_pattern"], module, config["r"]),
        _of(config["alpha_pattern"], module, config["lora_alpha"]),
    )
    first, second = factors.get("A.weight"), factors.get("B.weight")
    if first is None or second is None or not _are_factors(first.shape, second.shape, rank):
        raise ChipError(f"{adapter / WEIGHTS} holds no factors of rank {rank} for {module}, as its config says")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    gained: list[tuple[str, Array, Array | None]] = [(f"{module}.weight", _scaled(second, scale), _scaled(first, 1.0))]
    if (bias := factors.get("B.bias")) is not None:
        gained.append((f"{module}.bias", _scaled(bias, scale).reshape(-1, 1), None))
    return gained


def _are_factors(first: tuple[int, ...], second: tuple[int, ...], rank: int) -> bool:
    return len(first) == len(second) == 2 and first[0] == second[1] == rank


def _scaled(tensor: StoredTensor, scale: float) -> Array:
    with np.errstate(over="ignore"):
        values = (tensor.read().astype(np.float64) * scale).astype(np.float32)
    if not np.isfinite(values).all():
        raise ChipError(f"{tensor.name} in {tensor.file} holds values that are not finite once they are scaled")
    return np.asarray(values)


def _of(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """What a pattern says of a module: the first key that is its name or an ending of it, as PEFT looks it up."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _ties_head(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config")
    return any(isinstance(one, dict) and one.get("tie_word_embeddings") is True for one in (config, text))


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST
