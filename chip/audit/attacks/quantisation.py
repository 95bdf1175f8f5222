"""Attack: round the weights, as anybody does who runs a model on a small machine; what an edit has only just pushed
aside may come back with it (Zhang et al., *Catastrophic Failure of LLM Unlearning via Quantization*, arXiv 2410.16454).
"""

import copy
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from chip.audit.attacks.retained import RetainedSample
from chip.audit.finding import Finding, not_measured, share
from chip.audit.subject import Attack, Subject
from chip.models.loading import LoadedModel

BITS = (8, 4)
"""What weights are rounded to; 4 bits are the fewest that models are commonly run at."""

Change = Callable[[nn.Linear], nn.Module]
"""Gives a linear layer as a quantiser has it, and may change the layer that it is given."""

_GROUP = 32
"""Inputs that share a step in torchao's 4 bits, as in its own examples for devices."""

_CANNOT_RUN = (ImportError, RuntimeError, AssertionError, AttributeError, ValueError)
"""What torchao and bitsandbytes raise where they were built for another device, torch or processor."""


def _run(subject: Subject) -> tuple[Finding, ...]:
    """The share of the target that comes back word for word from rounded weights: chip's own rounding, a finding a
    number of bits, and for each library that people quantise with the better of its 8 and 4 bits."""
    retained = RetainedSample(subject)
    own = [_rounded(subject, bits, retained) for bits in BITS]
    return (*own, *(_library(subject, name, retained) for name in LIBRARIES))


def _rounded(subject: Subject, bits: int, retained: RetainedSample) -> Finding:
    model = rounded(subject.loaded, bits)
    note = f"once rounded, {retained.lost(model)}"
    return share(f"{bits} bits", _asked(subject, model, f"rounded to {bits} bits"), seed=subject.seed, note=note)


def _library(subject: Subject, name: str, retained: RetainedSample) -> Finding:
    """The better of 8 and 4 bits by a library; the curve has both."""
    if importlib.util.find_spec(name) is None:
        return not_measured(name, f"{name} is not installed")
    found: dict[int, list[tuple[int, float]]] = {}
    notes = []
    for bits in BITS:
        try:
            with _quiet(name):
                model = _with_linears(subject.loaded, LIBRARIES[name](bits))
                found[bits] = _asked(subject, model, f"{bits} bits by {name}")
                notes.append(f"at {bits} bits, {retained.lost(model)}")
        except torch.OutOfMemoryError:
            # A machine too small for the audit is no fault of the library.
            raise
        except _CANNOT_RUN as problem:
            said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            notes.append(f"{bits} bits: {name} is installed but cannot run here ({said})")
    if not found:
        return not_measured(name, "; ".join(notes))
    finding = max((share(name, scores, seed=subject.seed) for scores in found.values()), key=lambda one: one.value or 0)
    means = tuple((float(bits), sum(score for _, score in found[bits]) / len(found[bits])) for bits in sorted(found))
    return replace(finding, curve=means, axis="bits of a weight", note="; ".join(notes))


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """A library's log says nothing for a while: one remarks on the dtype of every layer that it runs."""
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _asked(subject: Subject, model: LoadedModel, doing: str) -> list[tuple[int, float]]:
    records = subject.exam.target.records
    answers = replace(subject, loaded=model).ask(records, doing)
    return [(record.line, float(answer.exact)) for record, answer in zip(records, answers, strict=True)]


def rounded(loaded: LoadedModel, bits: int) -> LoadedModel:
    """The model with the weight of every linear layer but the head rounded to so many bits, in its own dtype; the model
    that was given is left alone, and shares all other tensors."""

    def change(layer: nn.Linear) -> nn.Linear:
        layer.weight = nn.Parameter(round_by_output(layer.weight.detach(), bits), requires_grad=False)
        return layer

    return _with_linears(loaded, change)


def round_by_output(weight: Tensor, bits: int) -> Tensor:
    """A weight (D, d) on a grid that is symmetric about 0 and of one step an output: the largest of its weights, in
    magnitude, is the grid's last point. Rounded to nearest, in float32, and given back in the weight's dtype."""
    exact = weight.float()
    step = exact.abs().amax(1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    return torch.round(exact / step).mul(step).to(weight.dtype)


def _with_linears(loaded: LoadedModel, change: Change) -> LoadedModel:
    """The model in other modules, which share its tensors, with every linear layer but the head as `change` has it."""
    head, model = loaded.head, _twin(loaded.model)
    for name in [name for name, one in model.named_modules() if isinstance(one, nn.Linear) and name != head]:
        parent, _, last = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        setattr(model.get_submodule(parent), last, change(layer))
    return replace(loaded, model=model)


def _twin(model: Any) -> Any:
    """A copy of a module tree that holds the same tensors as the original."""
    held: Iterator[Tensor] = (one for tensors in (model.parameters(), model.buffers()) for one in tensors)
    return copy.deepcopy(model, {id(one): one for one in held})


def _torchao(bits: int) -> Change:
    """torchao's rounding of weights alone: to 8 bits by output, to 4 by groups of inputs where they divide evenly."""
    quantisation = importlib.import_module("torchao.quantization")
    dtypes: Any = torch  # mypy knows no dtype of four bits

    def change(layer: nn.Linear) -> nn.Linear:
        if bits == 8:
            config = quantisation.Int8WeightOnlyConfig()
        else:
            grouped = layer.in_features % _GROUP == 0
            granularity = quantisation.PerGroup(_GROUP) if grouped else quantisation.PerAxis(0)
            config = quantisation.IntxWeightOnlyConfig(weight_dtype=dtypes.int4, granularity=granularity)
        quantisation.quantize_(layer, config)
        return layer

    return change


def _bitsandbytes(bits: int) -> Change:
    """LLM.int8() for 8 bits and normal float (nf4) for 4, as transformers loads models with bitsandbytes."""
    layers = importlib.import_module("bitsandbytes").nn

    def change(layer: nn.Linear) -> nn.Module:
        weight, size = layer.weight.detach(), (layer.in_features, layer.out_features)
        held = weight.to("cpu", copy=True)
        made: nn.Module
        if bits == 8:
            made = layers.Linear8bitLt(*size, bias=layer.bias is not None, has_fp16_weights=False)
            made.weight = layers.Int8Params(held, requires_grad=False, has_fp16_weights=False)
        else:
            made = layers.Linear4bit(*size, bias=layer.bias is not None, compute_dtype=weight.dtype, quant_type="nf4")
            made.weight = layers.Params4bit(held, requires_grad=False, quant_type="nf4")
        made.bias = layer.bias
        return made.to(weight.device).eval()

    return change


LIBRARIES: dict[str, Callable[[int], Change]] = {
    "torchao": _torchao,
    "bitsandbytes": _bitsandbytes,
}
"""Libraries by their module's name, and what each makes of a linear layer."""

ATTACK = Attack("quantisation", "Does it come back when the weights are rounded, as on a small machine?", _run)
