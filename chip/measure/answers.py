"""What a model answers to records: greedy generation against the answer, and the loss of the answer's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chip.collect.passes import in_batches
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.models.prompts import Encoded
from chip.progress import Track, silent

_ROOM = 4
"""Tokens granted beyond the answer's own number, for the same text in other pieces."""


@dataclass(frozen=True)
class Answer:
    """What a model made of one record: the text it generated, whether it is the answer, and the answer's mean loss.

    A plain document has no question to generate from: `exact` then says whether every token is the likeliest one.
    """

    text: str
    exact: bool
    loss: float


def measure_answers(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    batch_size: int = 32,
    track: Track = silent,
    doing: str = "asking the model",
) -> list[Answer]:
    """An Answer for every record, in order. Records of like length share a batch; the answers do not depend on it."""
    encoded = [loaded.prompts.encode(record) for record in records]
    order = sorted(range(len(records)), key=lambda i: (len(encoded[i].answer_ids), len(encoded[i])))
    found: dict[int, Answer] = {}
    for group in track(in_batches(order, batch_size), doing):
        losses, likeliest = _teacher_forced(loaded, [encoded[i] for i in group])
        texts = _generate(loaded, [encoded[i] for i in group])
        for i, loss, all_likeliest, text in zip(group, losses, likeliest, texts, strict=True):
            document = records[i].text is not None
            exact = all_likeliest if document else _same(text, records[i].answer)
            found[i] = Answer("" if document else text, exact, loss)
    return [found[i] for i in range(len(records))]


def _same(generated: str, answer: str) -> bool:
    return " ".join(generated.split()) == " ".join(answer.split())


def _teacher_forced(loaded: LoadedModel, encoded: Sequence[Encoded]) -> tuple[list[float], list[bool]]:
    """Per record: the mean loss of its answer tokens, in nats, and whether each of them is the likeliest."""
    batch = loaded.prompts.collate(encoded, loaded.device)
    with torch.no_grad():
        logits = loaded.model(**batch.inputs, use_cache=False).logits
    losses, likeliest = [], []
    for row, one in enumerate(encoded):
        scores, wanted = logits[row][batch.answer[row]].float(), one.answer_ids.to(logits.device)
        losses.append(float(torch.nn.functional.cross_entropy(scores, wanted)))
        likeliest.append(bool((scores.argmax(-1) == wanted).all()))
    return losses, likeliest


def _generate(loaded: LoadedModel, encoded: Sequence[Encoded]) -> list[str]:
    prompts = loaded.prompts
    batch = prompts.collate([one.prompt_only() for one in encoded], loaded.device, left=True)
    length = max(len(one.answer_ids) for one in encoded) + _ROOM
    with torch.no_grad():
        made = loaded.model.generate(  # type: ignore[operator]
            **batch.inputs, max_new_tokens=length, do_sample=False, num_beams=1, pad_token_id=prompts.padding
        )
    new = made[:, batch.inputs["input_ids"].shape[1] :]
    return [str(text).strip() for text in prompts.tokenizer.batch_decode(new, skip_special_tokens=True)]
