"""Measures of an audit: what one model's answers to a part of an exam come to, with intervals. Imports no torch.

A part is a group of records, or those of a group that sit at one level of the hierarchy.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from chip.audit.exam import UTILITY, Exam, Sitting
from chip.audit.intervals import Estimate, estimate
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.measure import Answer, Group

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

Kind = Literal["target", "rephrased", "siblings", "shared", "rest", "utility"]

BLANK = re.compile(r"_{2,}|\[(?:MASK|BLANK)\]|<mask>", re.IGNORECASE)
"""What a cloze question has in the place of the term that is asked."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Asked:
    """One record that was asked, what came of it, and what else is known of the answer.

    chosen: of a record with options, whether the right one was the likeliest. factuality: what a judge gave, 0 to 10.
    """

    record: Record
    answer: Answer
    chosen: bool | None = None
    factuality: float | None = None


@dataclass(frozen=True)
class Part:
    """A group's records, or those of one level, and how many the group has in all."""

    name: str
    kind: Kind
    level: str
    group: Group
    places: tuple[int, ...]


def parts(exam: Exam) -> tuple[Part, ...]:
    """Every group as a whole and, where its records sit at several levels, level by level."""
    found = []
    for group in exam.groups:
        kind = _kind(group)
        found.append(Part(group.name, kind, "", group, tuple(range(len(group.records)))))
        depths = sorted({len(record.path) for record in group.records}) if kind != "utility" else []
        if len(depths) > 1:
            for depth in depths:
                level = exam.hierarchy.levels[depth - 1]
                places = tuple(i for i, record in enumerate(group.records) if len(record.path) == depth)
                found.append(Part(f"{group.name}, {level}", kind, level, group, places))
    return tuple(found)


def asked(part: Part, sitting: Sitting, factuality: Mapping[tuple[str, int], float] | None = None) -> list[Asked]:
    """What a model made of a part."""
    keys = [(part.group.name, place) for place in part.places]
    return [
        Asked(
            part.group.records[place],
            sitting.answers[name, place],
            sitting.choices.get((name, place)),
            (factuality or {}).get((name, place)),
        )
        for name, place in keys
    ]


def measures(answers: Sequence[Asked], seed: int = 0) -> dict[str, Estimate]:
    """By the name of a measure, its mean over the records that it is defined on; those of no record are left out.

    exact_match: the generated answer is the true one, white space joined. rouge_l: F-measure of the longest common
    subsequence of words (Lin 2004). loss: nats a token of the true answer. token_accuracy: its tokens that are the
    likeliest. choice, cloze: of records with options, the right one is the likeliest; cloze, where the question holds a
    blank. factuality: a judge's mark, 0 to 10. total: 0.25 · rouge_l + 0.75 · factuality ÷ 10 (MedForget, arXiv
    2512.09867).
    """
    found = {
        name: estimate([value for one in answers for value in of(one)], seed, share=name not in _NO_SHARES)
        for name, of in _MEASURES.items()
    }
    return {name: one for name, one in found.items() if one is not None}


def exact_match(part: Part, sitting: Sitting) -> float:
    """The share of a part's records that a model answers word for word."""
    return sum(sitting.answers[part.group.name, place].exact for place in part.places) / len(part.places)


def rouge_l(generated: str, answer: str) -> float:
    """ROUGE-L's F-measure, 0 to 1, on words of any script in lower case."""
    return float(_scorer().score(answer, generated)["rougeL"].fmeasure)


@dataclass(frozen=True)
class Distribution:
    """How the target's answer losses lie beside a retrained model's (TOFU, arXiv 2401.06121, on losses instead of truth
    ratios): statistic and p-value of the two-sided Kolmogorov–Smirnov test, the latter being TOFU's forget quality, and
    the Wasserstein distance in nats."""

    statistic: float
    p_value: float
    distance: float


def distribution(losses: Sequence[float], gold: Sequence[float]) -> Distribution:
    """Of the losses of the same records under two models."""
    from scipy.stats import ks_2samp, wasserstein_distance

    tested = ks_2samp(losses, gold)
    return Distribution(float(tested.statistic), float(tested.pvalue), float(wasserstein_distance(losses, gold)))


def forget_retain_gap(target: Mapping[str, Estimate], retained: Mapping[str, Estimate], measure: str) -> float | None:
    """By how much more a model gets of what is retained than of the target; None where either is not measured."""
    if measure not in target or measure not in retained:
        return None
    return retained[measure].value - target[measure].value


def refuse_without_libraries() -> None:
    """Raise ChipError, before anything is worked out, where what an audit measures with is not installed."""
    import importlib.util

    needed = ("rouge_score", "scipy", "matplotlib", "jinja2")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ChipError(f"chip audit needs {', '.join(missing)}; pip install 'chip-unlearning[audit]'")


def _kind(group: Group) -> Kind:
    if group.phrasing:
        return "target" if group.phrasing == 1 else "rephrased"
    kinds: dict[str, Kind] = {"siblings": "siblings", "shared": "shared", "rest": "rest", UTILITY: "utility"}
    return kinds[group.name]


def _of_exact(one: Asked) -> Iterator[float]:
    yield float(one.answer.exact)


def _of_rouge(one: Asked) -> Iterator[float]:
    if one.record.text is None:
        yield rouge_l(one.answer.text, one.record.answer)


def _of_loss(one: Asked) -> Iterator[float]:
    yield one.answer.loss


def _of_tokens(one: Asked) -> Iterator[float]:
    yield sum(one.answer.hits) / len(one.answer.hits)


def _of_choice(one: Asked) -> Iterator[float]:
    if one.chosen is not None and not BLANK.search(one.record.question):
        yield float(one.chosen)


def _of_cloze(one: Asked) -> Iterator[float]:
    if one.chosen is not None and BLANK.search(one.record.question):
        yield float(one.chosen)


def _of_factuality(one: Asked) -> Iterator[float]:
    if one.factuality is not None:
        yield one.factuality


def _of_total(one: Asked) -> Iterator[float]:
    if one.factuality is not None and one.record.text is None:
        yield 0.25 * rouge_l(one.answer.text, one.record.answer) + 0.75 * one.factuality / 10


_MEASURES: dict[str, Callable[[Asked], Iterator[float]]] = {
    "exact_match": _of_exact,
    "rouge_l": _of_rouge,
    "loss": _of_loss,
    "token_accuracy": _of_tokens,
    "choice": _of_choice,
    "cloze": _of_cloze,
    "factuality": _of_factuality,
    "total": _of_total,
}


_NO_SHARES = {"loss", "factuality"}


class _Words:
    """Splits into words of any script; rouge-score's own knows the Latin alphabet only."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@cache
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
