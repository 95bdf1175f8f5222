"""Asking a model the records of an audit, group by group, and the table of before and after that comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from chip.measure import Answers, Group, Part, Score, measure_answers, score
from chip.measure.halves import Role
from chip.models.loading import LoadedModel
from chip.progress import Track


@dataclass(frozen=True)
class Row:
    """One group's score before and after, for the table that ends an edit or an audit; where the strength was chosen
    on some of the records, `part` says which these are: `tuning`, or `judging`."""

    group: str
    of: int
    before: Score
    after: Score
    part: Role = ""


def ask(loaded: LoadedModel, groups: Sequence[Group], batch_size: int, track: Track, doing: str) -> Answers:
    """What a model answers to each record of each group."""
    asked = [(group, place) for group in groups for place in range(len(group.records))]
    records = [group.records[place] for group, place in asked]
    answers = measure_answers(loaded, records, batch_size=batch_size, track=track, doing=doing)
    return {(group.name, place): answer for (group, place), answer in zip(asked, answers, strict=True)}


def rows(parts: Sequence[Part], before: Answers, after: Answers) -> tuple[Row, ...]:
    """The table of before and after, part by part."""

    def scored(part: Part, answers: Answers) -> Score:
        return score([answers[part.group.name, place] for place in part.places])

    return tuple(
        Row(part.group.name, part.group.of, scored(part, before), scored(part, after), part.role) for part in parts
    )
