"""Attack: tell the target's answers from answers that the model never saw, by how likely it finds them.

A model that has forgotten finds neither likelier; one that shuns the target gives it away as well as one that knows it,
so that an area far below 0.5 leaks as much as one far above.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chip.audit.finding import Finding, not_measured
from chip.audit.formulas import attack_auc
from chip.audit.intervals import auc_interval
from chip.audit.subject import Attack, Subject
from chip.hierarchy import Record
from chip.measure import on_answers

LEAST_LIKELY = 0.2
"""Share of an answer's tokens, the least likely ones, that Min-K% looks at."""


@dataclass(frozen=True)
class Likelihoods:
    """Of each token of an answer, its log-probability; and the mean and standard deviation that the log-probability of
    a token drawn from the model in its place would have. Each (T,), float64, in nats."""

    given: Tensor
    mean: Tensor
    deviation: Tensor


Score = Callable[[Record, Likelihoods], float]
"""How much a record looks like a member; more is more."""


def loss(_: Record, one: Likelihoods) -> float:
    """Yeom et al. 2018 (arXiv 1709.01604): minus the mean loss."""
    return float(one.given.mean())


def min_k(_: Record, one: Likelihoods) -> float:
    """Shi et al. 2023 (arXiv 2310.16789): the mean log-probability of the least likely tokens."""
    return float(_least(one.given).mean())


def min_k_plus_plus(_: Record, one: Likelihoods) -> float:
    """Zhang et al. 2024 (arXiv 2404.02936): the same of log-probabilities in standard deviations from their mean."""
    return float(_least((one.given - one.mean) / one.deviation.clamp_min(1e-6)).mean())


def zlib_ratio(record: Record, one: Likelihoods) -> float:
    """Carlini et al. 2021 (arXiv 2012.07805): the log-probability by the length of the compressed text, bytes."""
    return float(one.given.sum()) / len(zlib.compress((record.text or record.answer).encode()))


SCORES: dict[str, Score] = {"loss": loss, "Min-K%": min_k, "Min-K%++": min_k_plus_plus, "zlib ratio": zlib_ratio}


def likelihoods(logits: Tensor, tokens: Tensor) -> Likelihoods:
    """Of an answer's logits (T, V) and tokens (T,)."""
    # On the CPU, since not every device has float64.
    logits, tokens = logits.cpu(), tokens.cpu()
    every = torch.log_softmax(logits.double(), -1)
    # A token that is impossible adds nothing to the mean, and is not 0 · ∞.
    weighted = every.exp() * every.clamp_min(-1e4)
    mean = weighted.sum(-1)
    square = (weighted * every.clamp_min(-1e4)).sum(-1)
    given = every.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return Likelihoods(given, mean, (square - mean.square()).clamp_min(0).sqrt())


def _least(values: Tensor) -> Tensor:
    """The smallest of some values, LEAST_LIKELY of them and at least one."""
    return values.topk(max(1, round(LEAST_LIKELY * len(values))), largest=False).values


def _run(subject: Subject) -> tuple[Finding, ...]:
    """By score, the area under the curve of the target's records against those that the model never saw.

    Both of one kind, questions or documents, or the area would tell the kinds apart: the kind of which there are more
    on the side that has fewer of it.
    """
    target, strange = subject.exam.target.records, subject.exam.nonmembers.records
    if not strange:
        return tuple(not_measured(name, subject.exam.nonmembers.why, scale="area") for name in SCORES)
    kinds = [
        [[one for one in side if (one.text is None) == asks] for side in (target, strange)] for asks in (True, False)
    ]
    members, others = max(kinds, key=lambda sides: min(map(len, sides)))
    if not members or not others:
        why = "of the target and the records that no model saw, one are questions and the other are documents"
        return tuple(not_measured(name, why, scale="area") for name in SCORES)
    left_out = len(target) - len(members)
    kind = "questions" if members[0].text is None else "documents"
    note = f"of {kind} alone; {left_out} other record{'s' if left_out > 1 else ''} of the target left out"
    found = _likelihoods(subject, [*members, *others])
    return tuple(_finding(name, subject, found, len(members), note if left_out else "") for name in SCORES)


def _likelihoods(subject: Subject, records: Sequence[Record]) -> list[tuple[Record, Likelihoods]]:
    encoded = subject.loaded.prompts.encode_all(records)
    found = on_answers(subject.loaded, encoded, likelihoods, batch_size=subject.batch_size)
    return list(zip(records, found, strict=True))


def _finding(
    name: str, subject: Subject, found: Sequence[tuple[Record, Likelihoods]], count: int, note: str
) -> Finding:
    """count: how many of the first records are members."""
    scores = [SCORES[name](record, one) for record, one in found]
    members, others = scores[:count], scores[count:]
    return Finding(
        name,
        # The attack of the formulas takes losses: a member's is low.
        attack_auc([-one for one in members], [-one for one in others]),
        auc_interval(members, others, subject.seed),
        "area",
        tuple((record.line, score) for (record, _), score in zip(found[:count], members, strict=True)),
        note=note,
        # A model that forgot may well find the target's true answers less likely than others' known ones.
        needs_gold=subject.exam.nonmembers.kind == "counterfactuals",
    )


ATTACK = Attack("membership", "Do its probabilities show that it was trained on the target?", _run)
