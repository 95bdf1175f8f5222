"""What a model answers to records: greedy generation against the answer, and the loss of the answer's tokens."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig

from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.models.prompts import Encoded
from chip.progress import Track, silent

Made = TypeVar("Made")

_ROOM = 4
"""Tokens granted beyond the answer's own number, for the same text in other pieces."""


@dataclass(frozen=True)
class Answer:
    """What a model made of one record: the text it generated, whether it is the answer, and the answer's mean loss.

    hits: of each token of the answer, whether it is the likeliest one after those before it. A plain document has no
    question to generate from, and where nothing was generated there is no text: `exact` then says that all of them are.
    """

    text: str
    exact: bool
    loss: float
    hits: tuple[bool, ...]

    @property
    def likeliest(self) -> bool:
        """Whether every token of the answer is the likeliest one after those before it."""
        return all(self.hits)


def measure_answers(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    encoded: Sequence[Encoded] | None = None,
    batch_size: int = 32,
    track: Track = silent,
    doing: str = "asking the model",
) -> list[Answer]:
    """An Answer for every record, in order. Records of like length share a batch, on which exactness and loss do not
    depend; a text that misses its answer is cut off a few tokens after the batch's longest answer, or longest option.

    encoded: the records as they are asked, where that is not as their files have it.

    Greedy means greedy: penalties and samplers of the model's own generation settings are left out. An answer whose
    every token is the likeliest one is what greedy generation gives, so that only others are generated.
    """
    if encoded is None:
        encoded = loaded.prompts.encode_all(records)
    found: dict[int, Answer] = {}
    for group in track(_batches(loaded, encoded, batch_size), doing):
        with _enough_memory():
            forced = dict(zip(group, _on_answers(loaded, [encoded[i] for i in group], _answer), strict=True))
            texts = _texts(loaded, records, encoded, forced)
        found.update(forced)
        for i, text in texts.items():
            found[i] = replace(found[i], text=text, exact=_same(text, records[i].answer))
    return [found[i] for i in range(len(records))]


def teacher_forced(loaded: LoadedModel, encoded: Sequence[Encoded], *, batch_size: int = 32) -> list[Answer]:
    """For every encoded record, in order, an Answer without text.

    One pass where generation takes one a token; where the answer is what the model would generate, the two agree.
    """
    return on_answers(loaded, encoded, _answer, batch_size=batch_size)


def on_answers(
    loaded: LoadedModel,
    encoded: Sequence[Encoded],
    made_of: Callable[[Tensor, Tensor], Made],
    *,
    batch_size: int = 32,
) -> list[Made]:
    """For every encoded record, in order, what is made of its answer's logits (T, V), float32, and its tokens (T,)."""
    found: dict[int, Made] = {}
    for group in _batches(loaded, encoded, batch_size):
        with _enough_memory():
            found.update(zip(group, _on_answers(loaded, [encoded[i] for i in group], made_of), strict=True))
    return [found[i] for i in range(len(encoded))]


def _batches(loaded: LoadedModel, encoded: Sequence[Encoded], batch_size: int) -> list[Sequence[int]]:
    """Places of records of like length that are asked together."""

    def images(i: int) -> int:
        return len(encoded[i].image_rows)

    apart = not loaded.prompts.inputs.mixes
    order = sorted(
        range(len(encoded)), key=lambda i: (images(i) if apart else 0, len(encoded[i].answer_ids), len(encoded[i]))
    )
    return loaded.prompts.batches(order, batch_size, images)


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Turns an accelerator's running out of memory into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise ChipError("the accelerator ran out of memory; give a smaller --batch-size") from problem


def _greedy(loaded: LoadedModel, length: int) -> GenerationConfig:
    end, padding = _ends(loaded), loaded.prompts.padding
    return GenerationConfig(max_new_tokens=length, do_sample=False, eos_token_id=end or None, pad_token_id=padding)


def _ends(loaded: LoadedModel) -> list[int]:
    """The tokens that end what is generated."""
    own = loaded.model.generation_config
    end = (own.eos_token_id if own is not None else None) or loaded.prompts.tokenizer.eos_token_id
    return [] if end is None else [end] if isinstance(end, int) else list(end)


def _texts(
    loaded: LoadedModel, records: Sequence[Record], encoded: Sequence[Encoded], forced: Mapping[int, Answer]
) -> dict[int, str]:
    """What greedy generation gives to those of the records, by place, that were asked with their answers; to all but
    documents, which have no question."""
    ends = _ends(loaded)
    known = {i: _by_itself(loaded, encoded[i], one, ends) for i, one in forced.items() if records[i].text is None}
    asked = [i for i, text in known.items() if text is None]
    room = max((_room(loaded, records[i], encoded[i]) for i in asked), default=0)
    made = _generate(loaded, [encoded[i] for i in asked], room) if asked else []
    return {i: text for i, text in known.items() if text is not None} | dict(zip(asked, made, strict=True))


def _by_itself(loaded: LoadedModel, encoded: Encoded, forced: Answer, ends: Collection[int]) -> str | None:
    """What greedy generation gives, where the pass with the true answer tells: where every token up to one that ends
    generation is the likeliest, the answer itself. None where it has to be generated."""
    tokens: list[int] = encoded.answer_ids.tolist()
    length = next((place + 1 for place, token in enumerate(tokens) if token in ends), None)
    if length is None or not all(forced.hits[:length]):
        return None
    return str(loaded.prompts.tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip()


def _same(generated: str, answer: str) -> bool:
    return " ".join(generated.split()) == " ".join(answer.split())


def _on_answers(
    loaded: LoadedModel, encoded: Sequence[Encoded], made_of: Callable[[Tensor, Tensor], Made]
) -> list[Made]:
    batch = loaded.prompts.collate(encoded, loaded.device)
    with torch.no_grad():
        logits = loaded.model(**batch.inputs, use_cache=False).logits
        return [
            made_of(logits[row][batch.answer[row]].float(), one.answer_ids.to(logits.device))
            for row, one in enumerate(encoded)
        ]


def _answer(logits: Tensor, wanted: Tensor) -> Answer:
    """The mean loss of the answer's tokens, in nats, and which of them are the likeliest."""
    hits = tuple(map(bool, (logits.argmax(-1) == wanted).tolist()))
    return Answer("", all(hits), float(torch.nn.functional.cross_entropy(logits, wanted)), hits)


def _room(loaded: LoadedModel, record: Record, encoded: Encoded) -> int:
    """How many tokens an answer may take: another option may be longer than the right one."""
    tokens = (loaded.prompts.tokenizer(option, add_special_tokens=False)["input_ids"] for option in record.options)
    return max([len(encoded.answer_ids), *map(len, tokens)]) + _ROOM


def _generate(loaded: LoadedModel, encoded: Sequence[Encoded], length: int) -> list[str]:
    prompts = loaded.prompts
    batch = prompts.collate([one.prompt_only() for one in encoded], loaded.device, left=True)
    with torch.no_grad():
        made = loaded.model.generate(  # type: ignore[operator]
            **batch.inputs, generation_config=_greedy(loaded, length)
        )
    new = made[:, batch.inputs["input_ids"].shape[1] :]
    return [str(text).strip() for text in prompts.tokenizer.batch_decode(new, skip_special_tokens=True)]
