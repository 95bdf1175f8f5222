"""Slow, plain references: one record at a time through transformers and the processor, kept whole, in float64."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from chip.hierarchy import Record


@dataclass(frozen=True)
class Trace:
    """What flowed through one site for one record: inputs and outputs by row, in float64.

    At a language site the rows are the tokens, with masks of the image tokens and of the answer positions; at a
    projector site the rows are the image's tokens and the masks are not meant.
    """

    given: Tensor
    output: Tensor
    image: Tensor
    answer: Tensor

    def pooled(self, alpha: float) -> Tensor:
        """alpha · mean over image + (1 − alpha) · mean over text; the mean over text where there is no image."""
        if len(self.output) != len(self.image):
            return self.output.mean(0)
        text = self.output[~self.image].mean(0)
        return text if not self.image.any() else alpha * self.output[self.image].mean(0) + (1 - alpha) * text

    @property
    def keys(self) -> Tensor:
        return self.given[self.answer]


def trace(model: torch.nn.Module, inputs: dict[str, Tensor], start: int, sites: Iterable[str]) -> dict[str, Trace]:
    """What flows through the sites that one record's inputs reach; its answer begins at token `start`."""
    ids = inputs["input_ids"][0]
    image = ids == getattr(model.config, "image_token_id", -1)
    answer = torch.zeros(len(ids), dtype=torch.bool)
    answer[start - 1 : len(ids) - 1] = True
    found: dict[str, Trace] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
            rows = [value.detach().double().reshape(-1, value.shape[-1]) for value in (given[0], output)]
            found[name] = Trace(*rows, image, answer)

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(watch(name)) for name in sites]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return found


class Reference:
    """A model and its processor as transformers gives them; knows nothing of chip but its records."""

    def __init__(self, directory: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(directory, dtype=dtype).eval()
        self.processor = AutoProcessor.from_pretrained(directory)

    def encode(self, record: Record, images: Sequence[Path] | None = None) -> tuple[dict[str, Tensor], int]:
        """Model inputs, and the index of the first answer token."""
        shown = record.images if images is None else images
        content = [{"type": "image"} for _ in shown] + [{"type": "text", "text": record.question}]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        prompt = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        turns.append({"role": "assistant", "content": [{"type": "text", "text": record.answer}]})
        full = self.processor.apply_chat_template(turns, tokenize=False)
        pictures = [Image.open(path).convert("RGB") for path in shown] or None
        inputs, asked = (self.processor(text=[text], images=pictures, return_tensors="pt") for text in (full, prompt))
        return dict(inputs), asked["input_ids"].shape[1]

    def trace(self, record: Record, sites: Iterable[str], images: Sequence[Path] | None = None) -> dict[str, Trace]:
        """What flows through the sites that the record reaches."""
        inputs, start = self.encode(record, images)
        return trace(self.model, inputs, start, sites)

    def weight(self, site: str) -> Tensor:
        return self.model.get_submodule(site).weight.detach().double()


def second_moment(rows: Tensor) -> Tensor:
    """The uncentred mean of xxᵀ over rows."""
    return rows.T @ rows / len(rows)
