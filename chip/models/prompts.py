"""Prompts: records as token ids and pixels, made by the model's own processor and chat template.

*Answer tokens* are those after the template's generation prompt, end-of-turn included; *answer positions* are the
positions whose outputs predict them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from operator import is_not
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from chip.errors import ChipError
from chip.hierarchy import Record
from chip.images import open_images
from chip.models.batching import ROWS_OF, concatenate, image_lengths, pad
from chip.models.families import Inputs
from chip.models.spans import Span, common_length, find_parts, placed_tokens, spans_of
from chip.models.templates import UNRENDERABLE, refuse_endless
from chip.progress import Item

_UNUSED = {"attention_mask", "labels"}
"""What a processor makes and a batch makes for itself, or no answer needs."""


@dataclass(frozen=True)
class Encoded:
    """One record as model inputs.

    `sequence` holds what has one entry a token ((S, …) each, `input_ids` among them); `pixels` what the processor made
    of the images, to be concatenated along axis 0 in a batch; `answer_start` is the index of the first answer token;
    `image_lengths` the number of image tokens of each image, and `image_rows` how many rows each sends through the
    vision tower and the projector, relative to other images.
    """

    sequence: dict[str, Tensor]
    pixels: dict[str, Tensor]
    answer_start: int
    image_lengths: tuple[int, ...] = ()
    image_rows: tuple[int, ...] = ()

    def __len__(self) -> int:
        return int(self.sequence["input_ids"].shape[0])

    @property
    def answer_ids(self) -> Tensor:
        return self.sequence["input_ids"][self.answer_start :]

    def cut(self, length: int) -> "Encoded":
        """The first tokens alone, with all the images."""
        return replace(self, sequence={key: value[:length] for key, value in self.sequence.items()})

    def prompt_only(self) -> "Encoded":
        """The same without its answer, for generation."""
        return self.cut(self.answer_start)


@dataclass(frozen=True)
class Batch:
    """Padded model inputs with masks over their positions, (B, S) each: image tokens, text tokens, answer positions.

    `real` are the tokens that are no padding; None where all are.
    """

    inputs: dict[str, Tensor]
    image: Tensor
    text: Tensor
    answer: Tensor
    real: Tensor | None


class _Once:
    """An image processor that remembers its last result, for records that show the same opened images in turn.

    Everything else is the image processor's own, so that the processor around it expands the text as it always does.
    """

    def __init__(self, image_processor: Any) -> None:
        self._image_processor = image_processor
        self._shown: list[Any] | None = None
        self._made: Mapping[str, Any] = {}

    def __call__(self, images: Any, **options: Any) -> Any:
        shown = list(_flat(images))
        if self._shown is None or len(shown) != len(self._shown) or any(map(is_not, shown, self._shown)):
            self._made, self._shown = self._image_processor(images, **options), shown
        # A copy, since processors take things out of what they are given.
        return copy(self._made)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)


class Prompts:
    """Encodes records with a processor (images and text) or a plain tokenizer (text only)."""

    def __init__(self, processor: Any, image_token_id: int | None, inputs: Inputs | None = None) -> None:
        self.processor = processor
        self.inputs = inputs or Inputs()
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.sees = hasattr(processor, "image_processor")
        self.image_token_id = image_token_id if self.sees else None

    @property
    def chat_template(self) -> Any:
        """The model's own chat template, or those that it has by name; nothing where it has none."""
        return getattr(self.processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)

    @property
    def has_chat_template(self) -> bool:
        return bool(self.chat_template)

    def refuse_endless_template(self) -> None:
        """Raise ChipError where the chat template does not come to an end on a word, with an image and without."""
        if self.has_chat_template and not self.inputs.suffix:
            word = Record((), question="?", answer="-")
            refuse_endless(self.chat_template, lambda: [self._texts(word, count) for count in range(1 + self.sees)])

    @property
    def padding(self) -> int:
        """The id that fills up shorter rows; masked everywhere, so that any id will do where the model names none."""
        named = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((number for number in named if number is not None), 0)

    @cached_property
    def head(self) -> int:
        """How many characters every prompt begins with, before its images and its question."""
        try:
            return common_length(*(self._texts(Record((), question=word, answer="-"), 0)[0] for word in "?!"))
        except UNRENDERABLE:
            # Encoding a record will say what the template refuses.
            return 0

    def image_tokens(self, encoded: Encoded) -> int:
        """How many of a record's tokens stand for images."""
        return 0 if self.image_token_id is None else int((encoded.sequence["input_ids"] == self.image_token_id).sum())

    def encode(self, record: Record, images: Sequence[Image.Image] | None = None) -> Encoded:
        """A record as token ids and pixels; with `images`, opened ones, as if it showed these instead of its own.

        Raises ChipError, naming the record's line, where an image cannot be read or the answer has no tokens.
        """
        return self.encode_together([record])[0] if images is None else self._encode_showing([record], images)[0]

    def encode_together(self, records: Sequence[Record]) -> list[Encoded]:
        """Records that all show the same images, which are decoded and preprocessed once.

        Raises ChipError as `encode` does.
        """
        images = open_images(records[0].images, records[0].line) if self.sees else []
        return self._encode_showing(records, images)

    def encode_all(self, records: Sequence[Record]) -> list[Encoded]:
        """Any records, in order; those that show the same images share them, opened and preprocessed once.

        Raises ChipError as `encode` does.
        """
        alike: dict[tuple[Path, ...], list[int]] = {}
        for place, record in enumerate(records):
            alike.setdefault(record.images, []).append(place)
        found: dict[int, Encoded] = {}
        for places in alike.values():
            found.update(zip(places, self.encode_together([records[place] for place in places]), strict=True))
        return [found[place] for place in range(len(records))]

    def _encode_showing(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Encoded]:
        if not images:
            return [self._encode(record, ()) for record in records]
        kept = self.processor.image_processor
        self.processor.image_processor = _Once(kept)
        try:
            return [self._encode(record, images) for record in records]
        finally:
            self.processor.image_processor = kept

    def _encode(self, record: Record, images: Sequence[Image.Image]) -> Encoded:
        if (record.images or images) and not self.sees:
            raise ChipError(f"record on line {record.line} shows an image, but this model takes text only")
        try:
            prompt, full, special = self._texts(record, len(images))
        except UNRENDERABLE as problem:
            raise ChipError(
                f"record on line {record.line}: the model's chat template refuses it ({_reason(problem, record)})"
            ) from problem
        asked, plain = self._tokenize(prompt, special), self._tokenize(full, special)
        if self.inputs.suffix:
            plain = asked + self._tokenize(full.removeprefix(prompt), special)
        start = common_length(asked, plain) if prompt else min(1, len(plain) - 1)
        answer = plain[start:]
        if start == 0 or not answer or not self.tokenizer.decode(answer, skip_special_tokens=True).strip():
            raise ChipError(f"record on line {record.line}: its answer comes to no tokens in this model's vocabulary")
        if self.image_token_id is not None and self.image_token_id in self._tokenize(
            record.question + (record.text or ""), False
        ):
            raise ChipError(f"record on line {record.line}: its question holds the model's image placeholder")
        if self.image_token_id is not None and self.image_token_id in answer:
            raise ChipError(f"record on line {record.line}: its answer holds the model's image placeholder")
        if not images:
            return self._typed(Encoded({"input_ids": torch.tensor(plain)}, {}, start))
        texts: dict[str, Any] = {"text": [full], "add_special_tokens": special}
        if self.inputs.suffix:
            texts = {"text": [self._shown(len(images)) + record.question], "suffix": [record.answer]}
        try:
            made = self.processor(images=list(images), return_tensors="pt", **texts)
        except (ValueError, TypeError) as problem:
            raise ChipError(
                f"record on line {record.line}: the model's processor refuses it ({_reason(problem, record)})"
            ) from problem
        return self._typed(self._with_images(dict(made), len(answer), images))

    def _with_images(self, made: dict[str, Tensor], answer_length: int, images: Sequence[Image.Image]) -> Encoded:
        ids, image = made["input_ids"], -1 if self.image_token_id is None else self.image_token_id
        # What has one entry a token has the shape of the token ids; everything else belongs to the images.
        sequence = {
            key: value[0]
            for key, value in made.items()
            if (value.shape == ids.shape or key in self.inputs.per_token) and key not in _UNUSED
        }
        pixels = {key: value for key, value in made.items() if key not in sequence and key not in _UNUSED}
        rows = self._image_rows(pixels, images)
        lengths = image_lengths(ids[0].eq(image), rows or [1] * len(images))
        start = ids.shape[1] - answer_length
        if self.inputs.suffix:
            start = int(made["token_type_ids"].eq(0).sum())
        return Encoded(sequence, pixels, start, tuple(lengths), tuple(rows or lengths))

    def _image_rows(self, pixels: dict[str, Tensor], images: Sequence[Image.Image]) -> list[int] | None:
        """How many rows each image sends through the vision tower, relative to the others; None where the number of
        its tokens says it."""
        how, name = self.inputs.image_rows or ("", "")
        if name not in pixels:
            return None
        if how == "alone" and len(images) > 1:
            alone = (self.processor.image_processor(images=[one], return_tensors="pt") for one in images)
            return [int(made[name].shape[1]) for made in alone]
        return [int(number) for number in ROWS_OF[how](pixels[name]).flatten()[: len(images)]]

    def _typed(self, encoded: Encoded) -> Encoded:
        """Where the prompt sees all of itself, the model is told which tokens are the answer, image or none."""
        if not self.inputs.suffix:
            return encoded
        types = (torch.arange(len(encoded)) >= encoded.answer_start).long()
        return replace(encoded, sequence={**encoded.sequence, "token_type_ids": types})

    def _texts(self, record: Record, images: int) -> tuple[str, str, bool]:
        """Prompt, prompt with answer, and whether the tokenizer shall add its own special tokens."""
        end = self.tokenizer.eos_token or ""
        if record.text is not None:
            return "", record.text + end, True
        if self.inputs.suffix:
            prompt = f"{self.tokenizer.bos_token}{record.question}\n"
            return prompt, f"{prompt}{record.answer}{end}", False
        if not self.has_chat_template:
            shown = self._shown(images)
            return f"{shown}{record.question}\n", f"{shown}{record.question}\n{record.answer}{end}", True
        user: Any = record.question
        answer: Any = record.answer
        if self.sees:
            user = [{"type": "image"}] * images + [{"type": "text", "text": record.question}]
            answer = [{"type": "text", "text": record.answer}]
        turns = [{"role": "user", "content": user}]
        prompt = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        turns = [*turns, {"role": "assistant", "content": answer}]
        full = self.processor.apply_chat_template(turns, tokenize=False)
        begins = self.tokenizer.bos_token
        return prompt, full, not (begins and full.startswith(begins))

    def _shown(self, images: int) -> str:
        return str(getattr(self.processor, "image_token", "")) * images

    def spans(self, record: Record, encoded: Encoded) -> tuple[Span, ...]:
        """For each token of a whole encoded record, the characters of the question or of the answer that it stands for.

        Of a document, whose text is its answer, the first token, which no position predicts, stands for nothing. White
        space belongs to a token or to none, as the tokenizer has it; a character of several tokens belongs to all.

        Raises ChipError where the tokenizer tells no characters (those that are not "fast" do not), and where the chat
        template or the processor changes what was said by more than white space around it.
        """
        prompt, full, special = self._texts(record, len(record.images))
        pieces = (prompt, full.removeprefix(prompt)) if self.inputs.suffix else (full,)
        tokens = placed_tokens(self.tokenizer, pieces, special)
        places = find_parts(record, full, lambda other: self._texts(other, len(record.images))[1])
        return spans_of(record, places, tokens, encoded.sequence["input_ids"].tolist(), encoded.answer_start)

    def _tokenize(self, text: str, special: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def collate(self, encoded: Sequence[Encoded], device: torch.device, *, left: bool = False) -> Batch:
        """One padded batch: on the right for measuring, so that padding stays behind a causal model's back;
        on the left for generation."""
        width = max(len(one) for one in encoded)
        fill = {"input_ids": self.padding}
        kinds = {key: value.dtype for one in encoded for key, value in one.sequence.items()}
        inputs = {
            key: concatenate([pad(_row(one, key, kind), width, fill.get(key, 0), left)[None] for one in encoded])
            for key, kind in kinds.items()
        }
        real = torch.stack([pad(torch.ones(len(one), dtype=torch.bool), width, 0, left) for one in encoded])
        inputs["attention_mask"] = real.long()
        for key in {key for one in encoded for key in one.pixels}:
            inputs[key] = concatenate([one.pixels[key] for one in encoded if key in one.pixels])
        image = real & (inputs["input_ids"] == (-1 if self.image_token_id is None else self.image_token_id))
        answer = torch.zeros_like(real)
        for row, one in enumerate(encoded):
            offset = width - len(one) if left else 0
            answer[row, offset + one.answer_start - 1 : offset + len(one) - 1] = True
        return Batch(
            {key: value.to(device) for key, value in inputs.items()},
            image.to(device),
            (real & ~image).to(device),
            answer.to(device),
            None if bool(real.all()) else real.to(device),
        )

    def batches(self, items: Sequence[Item], size: int, images: Callable[[Item], int]) -> list[Sequence[Item]]:
        """The items in order, `size` at a time at most; `images` says how many images an item shows, and a batch ends
        where that changes in a family whose batches may not mix them."""
        found, start = [], 0
        for stop in range(1, len(items) + 1):
            full = stop - start == size or stop == len(items)
            if full or (not self.inputs.mixes and images(items[stop]) != images(items[start])):
                found.append(items[start:stop])
                start = stop
        return found


def _reason(problem: Exception, record: Record) -> str:
    """Why a template or a processor refuses a record, in its words but for what the record says."""
    reason = str(problem)
    for said in (record.question, record.answer, record.text or ""):
        reason = reason.replace(said, "…") if said else reason
    return reason


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for one in images:
            yield from _flat(one)
    else:
        yield images


def _row(one: Encoded, key: str, kind: torch.dtype) -> Tensor:
    """What a record has one entry a token of; zeros where it shows no image and its processor gave none."""
    return one.sequence.get(key, torch.zeros(len(one), dtype=kind))
