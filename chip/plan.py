"""The plan of an edit: what it will touch, before it touches it, and what its user should think about first."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chip.hierarchy import Hierarchy, NodePath, Split, lies_within, said
from chip.phrases import Phrase, standing_in, tokens_of
from chip.records.digests import image_digest, images_of

_LINES_NAMED = 5
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
    targets = frozenset(split.targets)
    target = [hierarchy.records[i] for i in split.target]
    retained = frozenset(path for path in hierarchy.holding if not lies_within(path, targets))
    warnings = []
    found, lines = _standing(_own_names(hierarchy, targets, retained), hierarchy, retained)
    if found:
        warnings.append(
            f"names of the target also stand in retained records ({_named_lines(lines)}); those are kept as they are"
        )
    answers = {record.answer for record in target if len(record.answer) >= _SHORTEST_ANSWER}
    found, lines = _standing(answers, hierarchy, retained)
    if found:
        warnings.append(
            f"{len(found)} of the target's {len(answers)} answers also stand in retained records "
            f"({_named_lines(lines)}); the edited model may still give them"
        )
    own = images_of(target)
    shown, lines = _shown(own, hierarchy, retained)
    if shown:
        warnings.append(
            f"{len(shown)} of the target's {len(own)} images are also shown by retained records ({_named_lines(lines)})"
        )
    return warnings


def _own_names(hierarchy: Hierarchy, targets: Set[NodePath], retained: Iterable[NodePath]) -> set[str]:
    """Names of nodes at or below the targets that no retained node bears."""
    inside = {
        name
        for path in hierarchy.holding
        for depth in range(1, len(path) + 1)
        if path[:depth] in targets
        for name in path[depth - 1 :]
    }
    return inside - {name for path in retained for name in path}


def _standing(phrases: Iterable[str], hierarchy: Hierarchy, retained: Set[NodePath]) -> tuple[set[Phrase], list[int]]:
    """Which phrases stand in the retained records, as words, and on which lines.

    Records are looked up by their words, which were put in order once for all requests.
    """
    wanted = frozenset(map(tokens_of, phrases)) - {()}
    lengths = frozenset(map(len, wanted))
    found: set[Phrase] = set()
    lines = []
    for position in hierarchy.origin.words.likely(wanted):
        record = hierarchy.origin.records[position]
        if record.path in retained and (here := standing_in(said(record), wanted, lengths)):
            found |= here
            lines.append(record.line)
    return found, lines


def _shown(images: Set[str], hierarchy: Hierarchy, retained: Set[NodePath]) -> tuple[set[str], list[int]]:
    """Which images, by digest, retained records show as well, and on which lines these stand."""
    found: set[str] = set()
    positions: set[int] = set()
    records = hierarchy.origin.records
    for file, showing in hierarchy.origin.showing.items() if images else ():
        kept = [position for position in showing if records[position].path in retained]
        if kept and (digest := image_digest(file)) in images:
            found.add(digest)
            positions.update(kept)
    return found, [records[position].line for position in sorted(positions)]


def _named_lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:_LINES_NAMED]))
    more = f" and {len(lines) - _LINES_NAMED} more" if len(lines) > _LINES_NAMED else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{more}"
