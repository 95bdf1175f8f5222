"""Asking two checkpoints the same records, group by group."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chip.measure import Group, Score, audit_groups, measure_answers, score
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model, resolve_model
from chip.progress import Track, silent
from chip.records import read_records


@dataclass(frozen=True)
class Row:
    """One group's score before and after, for the table that ends an edit or an audit."""

    group: str
    of: int
    before: Score
    after: Score


def audit(
    base: str,
    edited: str,
    data: Path,
    forget: Sequence[str],
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    records: int = 200,
    seed: int = 0,
    track: Track = silent,
) -> tuple[Row, ...]:
    """Ask two checkpoints the same records, group by group."""
    hierarchy = read_records(data)
    split = hierarchy.split([hierarchy.resolve(name) for name in forget])
    groups = audit_groups(hierarchy, split, limit=records, seed=seed)
    before, after = (
        scores(
            load_model(Checkpoint(resolve_model(model)), device, dtype), groups, batch_size, track, f"asking {model}"
        )
        for model in (base, edited)
    )
    return tuple(Row(g.name, g.of, b, a) for g, b, a in zip(groups, before, after, strict=True))


def scores(loaded: LoadedModel, groups: Sequence[Group], batch_size: int, track: Track, doing: str) -> list[Score]:
    """What a model answers to each group, scored."""
    records = [record for group in groups for record in group.records]
    answers = iter(measure_answers(loaded, records, batch_size=batch_size, track=track, doing=doing))
    return [score([next(answers) for _ in group.records]) for group in groups]
