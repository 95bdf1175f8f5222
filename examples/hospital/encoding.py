"""Questions and answers as token rows: what training feeds the model, and which positions it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaProcessor

NO_TARGET = -100
_IMAGE: tuple[list[dict[str, str]], ...] = ([], [{"type": "image"}])


@dataclass(frozen=True)
class Example:
    """One conversation: its token ids, where the answer begins, and which image it shows (None: no image)."""

    tokens: tuple[int, ...]
    answer_start: int
    image: int | None


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right (causal attention then needs no mask).

    tokens: (rows, length) ids. targets: (rows, length) the next token where it is an answer token, else NO_TARGET.
    images: (rows with an image,) indices, in the order of the rows.
    """

    tokens: Tensor
    targets: Tensor
    images: Tensor

    @property
    def answers(self) -> Tensor:
        """The answer positions, (rows, length) bool."""
        return self.targets != NO_TARGET


def encode(processor: LlavaProcessor, turns: Sequence[tuple[str, str, int | None]], image_tokens: int) -> list[Example]:
    """Encode (question, answer, image index or None) conversations the way the processor's chat template does."""
    asked: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": [*_IMAGE[image is not None], {"type": "text", "text": question}]}]
        for question, _, image in turns
    ]
    prompts = [
        processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False).replace(
            processor.image_token, processor.image_token * image_tokens
        )
        for turn in asked
    ]
    tokenizer = processor.tokenizer
    before = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    after = tokenizer([answer + tokenizer.eos_token for _, answer, _ in turns], add_special_tokens=False)["input_ids"]
    return [
        Example((*prompt, *answer), len(prompt), image)
        for prompt, answer, (_, _, image) in zip(before, after, turns, strict=True)
    ]


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Pad the examples to the longest and lay out the targets."""
    length = max(len(example.tokens) for example in examples)
    tokens = torch.full((len(examples), length), pad)
    targets = torch.full((len(examples), length), NO_TARGET)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.tokens)
        tokens[row, : len(ids)] = ids
        targets[row, example.answer_start - 1 : len(ids) - 1] = ids[example.answer_start :]
    return Batch(tokens, targets, torch.tensor([e.image for e in examples if e.image is not None], dtype=torch.long))
