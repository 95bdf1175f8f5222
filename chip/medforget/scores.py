"""Scores as the benchmark's authors publish them: by task, on the forget and the retain side, and the gap between.

Their code tells tasks by the form of a question. Generation: mean ROUGE-L (F-measure, with Porter's stemmer), mean
factuality by a judge, and their total, 0.25 · ROUGE-L + 0.75 · factuality / 10. Classification and cloze: the share of
answers whose ROUGE-L is 1 (Wu et al., arXiv 2512.09867, and its published evaluation).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from chip.audit.exam import UTILITY, Exam, Sitting
from chip.medforget.questions import BLANK, CLASSIFICATION, CLOZE, GENERATION

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

FORGET, REPHRASED, RETAIN = "forget", "rephrased", "retain"

Marks = Mapping[tuple[str, int], float]
Measures = dict[str, float]


class _Scored(NamedTuple):
    """One answer: its ROUGE-L, a judge's mark if there is one, and how many records it stands for."""

    rouge_l: float
    mark: float | None
    weight: float


def task_of(question: str) -> str:
    """The task of a question, by the form that the authors' code goes by."""
    if BLANK in question:
        return CLOZE
    return CLASSIFICATION if all(letter in question for letter in ("A)", "B)", "C)")) else GENERATION


def published_scores(exam: Exam, sitting: Sitting, marks: Marks | None = None) -> dict[str, dict[str, Measures]]:
    """By side (forget, in the wording of the edit; rephrased, in all others; retain) and task: `records` that were
    asked and `rouge_l`, `factuality` and `total`, or `accuracy`. Sides and tasks without a record are left out; of a
    retain group of which a sample was asked, a record weighs as many as it stands for. marks: a judge's, 0 to 10, by
    group and place."""
    found: dict[str, dict[str, list[_Scored]]] = defaultdict(lambda: defaultdict(list))
    for group in exam.groups:
        if group.name == UTILITY:
            continue
        side = RETAIN if not group.phrasing else FORGET if group.phrasing == 1 else REPHRASED
        for place, record in enumerate(group.records):
            if record.text is None:
                scored = _Scored(
                    rouge_l(sitting.answers[group.name, place].text, record.answer),
                    (marks or {}).get((group.name, place)),
                    group.of / len(group.records),
                )
                found[side][task_of(record.question)].append(scored)
    return {
        side: {task: _measures(task, tasks[task]) for task in (GENERATION, CLASSIFICATION, CLOZE) if task in tasks}
        for side, tasks in found.items()
    }


def gaps(scores: Mapping[str, Mapping[str, Measures]]) -> dict[str, Measures]:
    """By task, how much better the retain side is than the forget side; what one of them does not have is left out."""
    forget, retain = scores.get(FORGET, {}), scores.get(RETAIN, {})
    return {
        task: {
            name: retain[task][name] - value
            for name, value in measures.items()
            if name != "records" and name in retain[task]
        }
        for task, measures in forget.items()
        if task in retain
    }


def rouge_l(generated: str, answer: str) -> float:
    """ROUGE-L's F-measure as the authors' evaluation takes it: Latin words and numbers in lower case, stemmed."""
    return float(_scorer().score(answer, generated)["rougeL"].fmeasure)


def _measures(task: str, scored: Iterable[_Scored]) -> Measures:
    scored = list(scored)
    weight = sum(one.weight for one in scored)

    def mean(values: Iterable[float]) -> float:
        return sum(one.weight * value for one, value in zip(scored, values, strict=True)) / weight

    if task != GENERATION:
        return {"records": len(scored), "accuracy": mean(float(one.rouge_l == 1.0) for one in scored)}
    found = {"records": len(scored), "rouge_l": mean(one.rouge_l for one in scored)}
    marks = [one.mark for one in scored if one.mark is not None]
    if len(marks) == len(scored):
        factuality = mean(marks)
        found |= {"factuality": factuality, "total": 0.25 * found["rouge_l"] + 0.75 * factuality / 10}
    return found


@cache
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
