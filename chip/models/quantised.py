"""Quantised checkpoints: fp8 (e4m3) with scales can be edited; all others are refused by name, with what to do.

How a checkpoint says what it is: https://huggingface.co/docs/transformers/main_classes/quantization.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from chip.errors import ChipError

_NAMES = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "eetq": "EETQ",
    "gguf": "GGUF",
    "gptq": "GPTQ",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    "mxfp8": "MXFP8",
    "nvfp4": "NVFP4",
    "quark": "Quark",
    "spqr": "SpQR",
    "vptq": "VPTQ",
}
_TELLING = {
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".SCB": "bitsandbytes",
    ".quant_state.bitsandbytes__nf4": "bitsandbytes",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes",
}
"""Endings of tensors that only quantised checkpoints store, whatever the config says."""


def quantisation(config: dict[str, Any]) -> dict[str, Any] | None:
    """What a config says of quantised weights, where it says anything; that of the language model counts too."""
    for part in (config, config.get("text_config")):
        for key in ("quantization_config", "compression_config"):
            if isinstance(part, dict) and part.get(key) is not None:
                found = part[key]
                return found if isinstance(found, dict) else {}
    return None


def refuse_quantised(directory: Path, config: dict[str, Any]) -> None:
    """Raise ChipError where a config tells of quantised weights that chip cannot edit."""
    found = quantisation(config)
    if found is not None and not _is_fp8(found):
        raise _refusal(directory, _method(found))


def refuse_quantised_tensors(directory: Path, names: Iterable[str]) -> None:
    """The same from the names of the tensors, for checkpoints whose config says nothing."""
    for name in names:
        for ending, method in _TELLING.items():
            if name.endswith(ending):
                raise _refusal(directory, method)


def scale_names(name: str) -> tuple[str, ...]:
    """Names that the scales of an fp8 weight may have; the weight is its codes times them under every one."""
    stem = name.removesuffix(".weight")
    others = (f"{stem}.scale", f"{stem}.qscale_weight") if stem != name else ()
    return (f"{name}_scale_inv", f"{name}_scale", *others)


def block_size(config: dict[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of the blocks that share a scale, where a config says."""
    size = (quantisation(config) or {}).get("weight_block_size")
    if isinstance(size, list) and len(size) == 2 and all(type(one) is int and one > 0 for one in size):
        return size[0], size[1]
    return None


def _is_fp8(found: dict[str, Any]) -> bool:
    method = found.get("quant_method")
    if method == "compressed-tensors":
        schemes = list(_schemes(found))
        return bool(schemes) and all((one.get("type"), one.get("num_bits")) == ("float", 8) for one in schemes)
    return method == "fbgemm_fp8" or (method == "fp8" and found.get("expert_dtype", "fp8") == "fp8")


def _method(found: dict[str, Any]) -> str:
    method = found.get("quant_method")
    if method == "compressed-tensors":
        kinds = sorted({f"{one.get('type')}{one.get('num_bits')}" for one in _schemes(found)})
        return f"compressed-tensors ({', '.join(kinds) or found.get('format')})"
    if method is None and (found.get("load_in_4bit") or found.get("load_in_8bit")):
        return "bitsandbytes"
    if method is None:
        return "a method that its config does not name"
    return "fp8 with experts in fp4" if method == "fp8" else _NAMES.get(str(method), str(method))


def _schemes(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How the weights of each group of layers are stored, in compressed-tensors' own words."""
    groups = found.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        yield weights if isinstance(weights, dict) else {}


def _refusal(directory: Path, method: str) -> ChipError:
    return ChipError(
        f"{directory} holds weights quantised by {method}; edit the unquantised model, then quantise it again"
    )
