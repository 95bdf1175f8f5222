"""The plan of an edit: what it will touch, before it touches it, and what its user should think about first."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chip.hierarchy import Hierarchy, Record, Split, is_under
from chip.records.digests import image_digest

_LINES_NAMED = 5
_WORD = re.compile(r"\w+|[^\w\s]")
_SHORTEST_ANSWER = 3
"""Shorter answers ("no", "2") stand everywhere and mean nothing by themselves."""


@dataclass(frozen=True)
class Plan:
    """What `chip edit` prints first. `records` counts by group; `collecting` says what
    collecting statistics takes, and is empty where none are collected; `notices` say what was decided for the user;
    `warnings` say what may make forgetting incomplete."""

    model: Path
    family: str
    device: str
    dtype: str
    data: Path
    targets: tuple[str, ...]
    records: Mapping[str, int]
    method: str
    settings: Mapping[str, Any]
    sites: tuple[str, ...]
    parameters: int
    out: Path | None
    statistics: str
    collecting: str
    receipt: Path | None
    left_behind: tuple[str, ...]
    notices: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def overlap_warnings(hierarchy: Hierarchy, split: Split) -> list[str]:
    """What of the target also stands in retained records: its names, its answers, its images.

    Retained records are named by line; what they say is never repeated.
    """
    target = [hierarchy.records[i] for i in split.target]
    retained = [hierarchy.records[i] for i in split.retain]
    warnings = []
    found, lines = _standing(_own_names(hierarchy, split), retained)
    if found:
        warnings.append(
            f"names of the target also stand in retained records ({_named_lines(lines)}); those are kept as they are"
        )
    answers = {record.answer for record in target if len(record.answer) >= _SHORTEST_ANSWER}
    found, lines = _standing(answers, retained)
    if found:
        warnings.append(
            f"{len(found)} of the target's {len(answers)} answers also stand in retained records "
            f"({_named_lines(lines)}); the edited model may still give them"
        )
    shown = {image_digest(path) for record in retained for path in record.images}
    own = {image_digest(path) for record in target for path in record.images}
    if own & shown:
        lines = [record.line for record in retained if {image_digest(path) for path in record.images} & own]
        warnings.append(
            f"{len(own & shown)} of the target's {len(own)} images are also shown by retained records "
            f"({_named_lines(lines)})"
        )
    return warnings


def _own_names(hierarchy: Hierarchy, split: Split) -> set[str]:
    """Names of nodes at or below the targets that no retained node bears."""
    inside = {
        name
        for node in hierarchy.nodes
        for target in split.targets
        if is_under(node, target)
        for name in node[len(target) - 1 :]
    }
    outside = {name for i in split.retain for name in hierarchy.paths[i]}
    return inside - outside


def _standing(phrases: set[str], records: Sequence[Record]) -> tuple[set[tuple[str, ...]], list[int]]:
    """Which phrases stand in the records, as words, and on which lines; in time that grows with the records alone."""
    wanted = {_words(phrase) for phrase in phrases} - {()}
    lengths = {len(phrase) for phrase in wanted}
    found: set[tuple[str, ...]] = set()
    lines = []
    for record in records:
        words = _words(f"{record.question}\n{record.answer}\n{record.text or ''}")
        here = {words[i : i + n] for n in lengths for i in range(len(words) - n + 1)} & wanted
        if here:
            found |= here
            lines.append(record.line)
    return found, lines


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _named_lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:_LINES_NAMED]))
    more = f" and {len(lines) - _LINES_NAMED} more" if len(lines) > _LINES_NAMED else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{more}"
