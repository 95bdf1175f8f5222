"""The metrics of DuoLearn's paper, from what two models made of an exam; `chip.audit.formulas` says what each is."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chip.audit.exam import Exam, Sitting, set_exam, sit
from chip.audit.formulas import (
    FORGOTTEN_LEVEL,
    KEPT_LEVELS,
    Judged,
    Measured,
    Metrics,
    chance_corrected_forgetting,
    forgetting_rate,
    hmta,
    invalid_share,
    knowledge_preservation,
    level_scores,
    mia_resistance,
)
from chip.hierarchy import Hierarchy, Split
from chip.measure import Answers, Group
from chip.models.checkpoint import Checkpoint
from chip.models.folders import resolve_model
from chip.models.loading import LoadedModel, load_model
from chip.progress import Track, silent


def metrics_of(exam: Exam, before: Sitting, after: Sitting) -> Metrics:
    """The metrics of what two models made of an exam, the first being the one that was edited. docs/duolearn.md,
    "Metrics", says what each means and which part of it is ours."""
    was, now = (_judged((exam.target,), one.answers) for one in (before, after))
    kept_before, kept_after = (_judged(exam.retained, one.answers) for one in (before, after))
    scores = level_scores(before.tokens, after.tokens)
    return Metrics(
        forgetting_rate=Measured(forgetting_rate(was), forgetting_rate(now)),
        chance_corrected_forgetting=_both(
            chance_corrected_forgetting, was, now, "no record of the target has options to choose from"
        ),
        knowledge_preservation=_explained(
            None, knowledge_preservation(kept_before, kept_after), "no retained answer was right before"
        ),
        mia_resistance=_resistance(exam, before, after),
        hmta=_explained(
            hmta(level_scores(before.tokens, before.tokens)),
            hmta(scores),
            before.obstacle or after.obstacle or _missing(scores),
        ),
        invalid_target=_both(invalid_share, was, now, "the target's documents have no questions"),
        invalid_retained=_both(invalid_share, kept_before, kept_after, "the retained documents have no questions"),
        level_scores=scores,
        nonmembers=exam.nonmembers.kind,
    )


def paper_metrics(
    before: LoadedModel | str | Path,
    after: LoadedModel | str | Path,
    hierarchy: Hierarchy,
    split: Split,
    *,
    lexicon: Path | None = None,
    nonmembers: Path | None = None,
    records: int = 200,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    track: Track = silent,
) -> Metrics:
    """The metrics of an edit, from two models or where they are; of the latter, one is in memory at a time. Other
    arguments are those of `set_exam` and `load_model`."""
    exam = set_exam(hierarchy, split, lexicon=lexicon, nonmembers=nonmembers, records=records, seed=seed)

    def sitting(model: LoadedModel | str | Path) -> Sitting:
        if not isinstance(model, LoadedModel):
            model = load_model(Checkpoint(resolve_model(model)), device, dtype)
        return sit(model, exam, batch_size=batch_size, track=track)

    return metrics_of(exam, sitting(before), sitting(after))


def _judged(groups: Sequence[Group], answers: Answers) -> list[Judged]:
    return [
        Judged(record, answers[group.name, place].exact, answers[group.name, place].text, group.of / len(group.records))
        for group in groups
        for place, record in enumerate(group.records)
    ]


def _resistance(exam: Exam, before: Sitting, after: Sitting) -> Measured:
    def one(sitting: Sitting) -> float | None:
        members = [
            sitting.answers[exam.target.name, place].loss
            for place, record in enumerate(exam.target.records)
            # Counterfactuals are of questions: a document beside them would be told by its kind.
            if exam.nonmembers.kind == "strangers" or record.text is None
        ]
        return mia_resistance(members, sitting.nonmember_losses)

    return _explained(one(before), one(after), exam.nonmembers.why)


def _both(
    metric: Callable[[Sequence[Judged]], float | None], before: Sequence[Judged], after: Sequence[Judged], why: str
) -> Measured:
    return _explained(metric(before), metric(after), why)


def _explained(before: float | None, after: float | None, why: str) -> Measured:
    return Measured(before, after, "" if after is not None else why)


def _missing(scores: Mapping[int, float]) -> str:
    """Why there is no mean over the levels."""
    kept = [str(level) for level in KEPT_LEVELS if level not in scores]
    said = [f"no word of level {' or '.join(kept)} was known in the retained answers"] if kept else []
    if FORGOTTEN_LEVEL not in scores:
        said.append(f"the target's answers have no word of level {FORGOTTEN_LEVEL}: retained records hold all of them")
    return "; ".join(said)
