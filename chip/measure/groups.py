"""Groups of an audit: which records are asked, under which phrasing, and what their answers come to."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chip.hierarchy import Hierarchy, Record, Split
from chip.measure.answers import Answer


@dataclass(frozen=True)
class Group:
    """Records asked together, under a name such as `target` or `target, phrasing 2`; `of` is how many there are in
    all where only a sample is asked. `phrasing`: of the target, which of its phrasings, from 1; 0 for the retained."""

    name: str
    records: tuple[Record, ...]
    of: int
    phrasing: int = 0


@dataclass(frozen=True)
class Score:
    """Exact match (share of records) and mean answer loss (nats per token) over `count` records."""

    exact_match: float
    loss: float
    count: int


def audit_groups(hierarchy: Hierarchy, split: Split, *, limit: int | None = None, seed: int = 0) -> tuple[Group, ...]:
    """Target, the target in each of its other phrasings, siblings, shared and rest; empty groups are left out.

    `limit` asks at most that many records of a group, drawn by seed; the target is always asked in full.
    """
    records = hierarchy.records
    groups = [sample("target", [records[i] for i in split.target], phrasing=1)]
    phrasings = max((len(records[i].paraphrases) for i in split.target), default=0)
    for number in range(phrasings):
        other = [
            replace(records[i], question=records[i].paraphrases[number])
            for i in split.target
            if len(records[i].paraphrases) > number
        ]
        groups.append(sample(f"target, phrasing {number + 2}", other, phrasing=number + 2))
    for name, positions in (("siblings", split.siblings), ("shared", split.shared), ("rest", split.rest)):
        groups.append(sample(name, [records[i] for i in positions], limit, seed))
    return tuple(group for group in groups if group.records)


def score(answers: Sequence[Answer]) -> Score:
    """The means over a group's answers."""
    count = len(answers)
    return Score(sum(a.exact for a in answers) / count, sum(a.loss for a in answers) / count, count)


def sample(name: str, records: list[Record], limit: int | None = None, seed: int = 0, *, phrasing: int = 0) -> Group:
    """A group of at most `limit` records, drawn by seed, in the order in which they were given."""
    total = len(records)
    if limit is not None and total > limit:
        chosen = sorted(random.Random(seed).sample(range(total), limit))
        records = [records[i] for i in chosen]
    return Group(name, tuple(records), total, phrasing)
