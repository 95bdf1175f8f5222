"""Loading: a model with its processor, from local files only, with nothing silently initialised or downloaded."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from chip.errors import ChipError, UsageError
from chip.models.checkpoint import Checkpoint
from chip.models.families import Family, find_family, image_token_id
from chip.models.prompts import Prompts
from chip.models.sites import Site, find_sites
from chip.models.trust import UNLOADABLE, borne_out, refuse_counts, refuse_foreign_code

try:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
        PreTrainedModel,
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
except (ImportError, RuntimeError) as problem:
    # transformers imports whatever torchvision it finds, and says only that a name of its own cannot be imported.
    raise ChipError(
        f"transformers cannot be imported ({str(problem).partition('. ')[0]}): most often a torchvision of another "
        "build than torch; install the one that belongs to it (docs/models.md), or remove it"
    ) from problem

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MASKED_ATTENTION = ("sdpa", "eager")
_LENGTHENING_ROPES = ("dynamic", "longrope")
_WEIGHTS_SHARE = 0.8
"""How much of a GPU's free memory weights may fill: the rest is for activations and sums."""

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be measured: weights in evaluation mode on `device`, its prompts, its family and its sites."""

    model: PreTrainedModel
    prompts: Prompts
    family: Family
    sites: tuple[Site, ...]
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def head(self) -> str:
        """The name of the module that turns what the layers leave into logits."""
        embeddings = self.model.get_output_embeddings()
        name = next((name for name, module in self.model.named_modules() if module is embeddings), None)
        if embeddings is None or name is None:
            raise ChipError(f"chip knows no output head of the family {self.family.name!r}")
        return str(name)

    @property
    def longest_sharing(self) -> int:
        """The most tokens of a record that may run behind a prefix it shares with others; 0 where none may.

        The family has to allow it, and the attention to take masks of one's own; a layer that sees only so many tokens
        back would need a mask of its own, so that longer records run whole.
        """
        text = self.model.config.get_text_config()
        if not self.family.shares_prefix or self.model.config._attn_implementation not in _MASKED_ATTENTION:
            return 0
        kinds = getattr(text, "layer_types", None)
        slides = "sliding_attention" in kinds if kinds else getattr(text, "use_sliding_window", True)
        window = getattr(text, "sliding_window", None)
        return min(int(window) if slides and window else sys.maxsize, self.longest_together)

    @property
    def longest_together(self) -> int:
        """The most tokens of a record that may run beside others: some rotary positions turn slower for all that is in
        a pass as soon as one record in it is longer than the model was first trained for."""
        text = self.model.config.get_text_config()
        given = getattr(text, "rope_parameters", None) or {}
        ropes = [given] if "rope_type" in given else [one for one in given.values() if isinstance(one, dict)]
        first = [
            int(rope.get("original_max_position_embeddings") or text.max_position_embeddings)
            for rope in ropes
            if rope.get("rope_type") in _LENGTHENING_ROPES
        ]
        return min(first, default=sys.maxsize)


def choose_device(name: str) -> torch.device:
    """`auto` is the accelerator where there is one, else the CPU; `spread` begins on the first of several."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "spread":
        return choose_device("cuda:0")
    try:
        device = torch.device(name)
    except RuntimeError as problem:
        raise UsageError(f"--device {name!r} is no device that torch knows") from problem
    if device.type not in _DEVICES:
        raise UsageError(f"--device {name}: chip runs on {', '.join(_DEVICES)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ChipError(f"--device {name}: torch sees no CUDA device here")
    return device


def choose_dtype(name: str, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """`auto` is float32 on a CPU, where it is fast and exact, and the checkpoint's own dtype on an accelerator."""
    if name != "auto":
        if name not in DTYPES:
            raise UsageError(f"--dtype {name!r} is none of auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    stored = {tensor.dtype for tensor in checkpoint.tensors.values()}
    return torch.bfloat16 if "BF16" in stored else torch.float16 if "F16" in stored else torch.float32


def load_model(checkpoint: Checkpoint, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a checkpoint for measuring.

    Raises ChipError where transformers does not know the model, where weights are missing or of another shape, or where
    the processor cannot be loaded (some need torchvision; the message says so).
    """
    directory = checkpoint.directory
    target = choose_device(device)
    spread = device == "spread" or (device == "auto" and _exceeds(checkpoint, target))
    chosen = choose_dtype(dtype, checkpoint, target)
    config = _config(checkpoint)
    auto = AutoModelForImageTextToText if _sees(config) else AutoModelForCausalLM
    dequantising = _dequantising(config, checkpoint)
    with _said_of(directory, "transformers cannot load {}"), borne_out(checkpoint):
        loaded: Any = auto.from_pretrained(
            directory,
            config=config,
            dtype=chosen,
            device_map="auto" if spread else {"": target},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **dequantising,
        )
    model, report = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            raise ChipError(f"{directory} does not fit its config: {kind.replace('_', ' ')} {sorted(report[kind])[0]}")
    model = cast(PreTrainedModel, model).eval()
    if checkpoint.is_fp8:
        for parameter in model.parameters():  # beside weights that it dequantises, transformers leaves others as stored
            parameter.data = parameter.data.to(chosen)
    if spread and (left := next((name for name, p in model.named_parameters() if p.device.type != "cuda"), None)):
        raise ChipError(f"{directory} does not fit on {torch.cuda.device_count()} GPUs together: {left} is left over")
    family = find_family(config, [name for name, _ in model.named_modules()])
    return LoadedModel(model, _prompts(directory, config, family), family, find_sites(model, family), target)


def adopted(model: PreTrainedModel, processor: Any) -> LoadedModel:
    """A model that somebody else has loaded, with its processor or its tokenizer, as `load_model` leaves one; it stays
    where it is, in its own dtype and mode.

    Raises ChipError where the family is not known, or a model that sees images comes without an image processor.
    """
    family = find_family(model.config, [name for name, _ in model.named_modules()])
    if _sees(model.config) and not hasattr(processor, "image_processor"):
        kind = type(processor).__name__
        raise ChipError(f"the model sees images, and {kind} has no image processor; give the model's AutoProcessor")
    prompts = Prompts(processor, image_token_id(model.config), family.inputs)
    return LoadedModel(model, prompts, family, find_sites(model, family), model.device)


def load_skeleton(checkpoint: Checkpoint) -> tuple[PreTrainedModel, Family, tuple[Site, ...]]:
    """The module tree without weights (on the meta device), its family and its sites."""
    config = _config(checkpoint)
    auto = AutoModelForImageTextToText if _sees(config) else AutoModelForCausalLM
    known = _said_of(checkpoint.directory, "transformers does not know {}")
    with known, torch.device("meta"), borne_out(checkpoint):
        model = auto.from_config(config)
    family = find_family(config, [name for name, _ in model.named_modules()])
    return model, family, find_sites(model, family)


def load_prompts(checkpoint: Checkpoint) -> Prompts:
    """A checkpoint's prompts alone: its tokenizer and its processor, and no weight.

    Raises ChipError as `load_model` does.
    """
    skeleton, family, _ = load_skeleton(checkpoint)
    return _prompts(checkpoint.directory, skeleton.config, family)


def _config(checkpoint: Checkpoint) -> Any:
    refuse_foreign_code(checkpoint)
    refuse_counts(checkpoint)
    with _said_of(checkpoint.directory, "transformers does not know {}"):
        return AutoConfig.from_pretrained(checkpoint.directory, local_files_only=True, trust_remote_code=False)


@contextmanager
def _said_of(directory: Path, sentence: str) -> Iterator[None]:
    """Around a call of transformers: what it raises of a checkpoint's files is said in a sentence about them."""
    try:
        yield
    except UNLOADABLE as problem:
        raise ChipError(f"{sentence.format(directory)}: {_first_line(problem)}") from problem


def _exceeds(checkpoint: Checkpoint, device: torch.device) -> bool:
    """Whether a checkpoint is too large for one of several GPUs, activations and all."""
    if device.type != "cuda" or torch.cuda.device_count() < 2:
        return False
    weights = sum(tensor.stop - tensor.start for tensor in checkpoint.tensors.values())
    return weights > _WEIGHTS_SHARE * torch.cuda.mem_get_info(device)[0]


def _dequantising(config: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """Has transformers dequantise fp8 weights while they are loaded, under whatever name their scales are published.

    Every layout that chip knows means codes times scales; transformers' own reader for one of them (fine-grained fp8)
    needs no GPU and no further library, and takes the scales' shape from the file.
    """
    if not checkpoint.is_fp8:
        return {}
    config.quantization_config = {"quant_method": "fp8", "dequantize": True}
    return {"key_mapping": {r"\.weight_scale$": ".weight_scale_inv"}}


def _sees(config: Any) -> bool:
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _prompts(directory: Path, config: Any, family: Family) -> Prompts:
    prompts = Prompts(_load_processor(directory, _sees(config)), image_token_id(config), family.inputs)
    prompts.refuse_endless_template()
    return prompts


def _load_processor(directory: Path, sees: bool) -> Any:
    auto = AutoProcessor if sees else AutoTokenizer
    with _said_of(directory, "{} holds no processor that can be loaded"):
        try:
            processor = auto.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except ImportError as problem:
            needs = re.search(r"torchvision", str(problem), re.IGNORECASE)
            lacks = "torchvision, which is not installed"
            if find_spec("torchvision") is not None:
                lacks = "the torchvision that belongs to torch"
            hint = f"it needs {lacks} (docs/models.md says which)" if needs else _first_line(problem)
            raise ChipError(f"the processor of {directory} cannot be loaded: {hint}") from problem
    if sees and not hasattr(processor, "image_processor"):
        raise ChipError(f"{directory} holds a tokenizer but no image processor (processor_config.json is missing)")
    return processor


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
