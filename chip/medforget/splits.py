"""Forget and retain sets at every level, and what must hold of them.

A forgotten node takes all its descendants with it; every target keeps two retained siblings; what a patient owns, an
image or a study, stands on one side alone; a shared ancestor's facts stay retained.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from chip.errors import ChipError, UsageError
from chip.files import write_private
from chip.hierarchy import Hierarchy, NodePath, is_under
from chip.medforget.selection import in_drawn_order
from chip.records.digests import image_digest

FORMAT = "chip-medforget-splits-1"
FEWEST_SIBLINGS = 2
"""Retained nodes of the same level under the same parent that each target keeps."""

_OWNER, _STUDY = "patient", "study"


@dataclass(frozen=True)
class ForgetSet:
    """Nodes of one level that are forgotten together, under a name such as `3-of-64`."""

    name: str
    forget: tuple[NodePath, ...]


@dataclass(frozen=True)
class Splits:
    """By level, its forget sets; what is retained is everything else. passed_over: by level, nodes that cannot be a
    target, or not beside those that are, and why. siblings: how many retained ones every target keeps."""

    levels: Mapping[str, tuple[ForgetSet, ...]]
    passed_over: Mapping[str, Mapping[NodePath, str]] = field(default_factory=dict)
    siblings: int = FEWEST_SIBLINGS

    def chosen(self, level: str, name: str | None = None) -> ForgetSet:
        """A level's forget set of that name, or its first. Raises UsageError where there is none."""
        sets = self.levels.get(level, ())
        if not sets:
            there = ", ".join(one for one, found in self.levels.items() if found) or "none"
            raise UsageError(f"there is no forget set at level {level!r}; there are sets for {there}")
        for one in sets:
            if name in (None, one.name):
                return one
        raise UsageError(f"no forget set of level {level!r} is called {name!r}; there are {_said(sets)}")


@dataclass(frozen=True)
class Sizes:
    """How large forget sets shall be: counts of nodes, or shares of a level's nodes. disjoint: no node is in two of
    them; else each holds those before it. siblings: how many retained nodes of its level every target keeps under its
    parent."""

    sizes: tuple[int | Fraction, ...] = (Fraction(1, 10),)
    disjoint: bool = False
    siblings: int = FEWEST_SIBLINGS

    def of(self, nodes: int) -> list[int]:
        """In nodes: shares rounded to the nearest, at least one; each size once unless sets are disjoint."""
        counts = [max(round(size * nodes), 1) if isinstance(size, Fraction) else size for size in self.sizes]
        return counts if self.disjoint else sorted(set(counts))


def read_sizes(text: str, *, disjoint: bool = False, siblings: int = FEWEST_SIBLINGS) -> Sizes:
    """Sizes from `1,4,0.1`: whole numbers are counts, numbers with a point are shares below 1. Raises UsageError."""
    if siblings < 0:
        raise UsageError(f"--min-siblings {siblings}: give 0 or more")
    sizes: list[int | Fraction] = []
    for part in text.split(","):
        try:
            size = Fraction(part.strip()) if "." in part else int(part)
        except ValueError as problem:
            raise UsageError(
                f"--sizes {text!r}: {part.strip()!r} is neither a count nor a share such as 0.1"
            ) from problem
        if size <= 0 or (isinstance(size, Fraction) and size >= 1):
            raise UsageError(f"--sizes {text!r}: give counts from 1 on, or shares between 0 and 1")
        sizes.append(size)
    return Sizes(tuple(sizes), disjoint, siblings)


def divide(hierarchy: Hierarchy, sizes: Sizes, seed: int = 0, levels: Sequence[str] = ()) -> Splits:
    """Forget sets at the levels given, or at all of them. The same seed gives the same sets, whatever the records'
    order. A set that no target can be found for is smaller, or left out; `passed_over` says why."""
    found, passed = {}, {}
    for level in levels or hierarchy.levels:
        if level not in hierarchy.levels:
            raise UsageError(f"--level {level!r} is none of {', '.join(hierarchy.levels)}")
        found[level], passed[level] = _Level(hierarchy, level, seed, sizes.siblings).divide(sizes)
    return Splits(found, passed, sizes.siblings)


def refuse_unsound(
    hierarchy: Hierarchy, level: str, forget: Sequence[NodePath], siblings: int = FEWEST_SIBLINGS
) -> None:
    """Raise ChipError, naming the node, where a forget set breaks what must hold of it."""
    one = _Level(hierarchy, level, 0, siblings)
    for node in forget:
        if node not in one.nodes:
            raise ChipError(f"{'/'.join(node)} is no {level} in these records")
        if why := one.obstacle(node, set(forget)):
            raise ChipError(f"{'/'.join(node)} cannot be forgotten at level {level}: {why}")


class _Level:
    """The nodes of a level and what they own."""

    def __init__(self, hierarchy: Hierarchy, level: str, seed: int, siblings: int) -> None:
        self._siblings = siblings
        depth = hierarchy.levels.index(level) + 1
        self.nodes = frozenset(node for node in hierarchy.nodes if len(node) == depth)
        named = {"/".join(node): node for node in self.nodes}
        self._drawn = [named[name] for name in in_drawn_order(named, seed, f"target {level}")]
        self._children = Counter(node[:-1] for node in self.nodes)
        self._images = _shown(hierarchy, depth) if _owns(hierarchy, depth) else {}
        self._studies = _studies(hierarchy, depth)

    def divide(self, sizes: Sizes) -> tuple[tuple[ForgetSet, ...], dict[NodePath, str]]:
        passed: dict[NodePath, str] = {}
        used: set[NodePath] = set()
        sets: list[ForgetSet] = []
        chosen: list[NodePath] = []
        for size in sizes.of(len(self.nodes)):
            if sizes.disjoint:
                chosen = []
            for node in self._drawn:
                if len(chosen) >= size:
                    break
                if node in chosen or node in used:
                    continue
                if why := self.obstacle(node, {*chosen, node}):
                    passed[node] = why
                else:
                    chosen.append(node)
            if sizes.disjoint:
                used |= set(chosen)
            name = f"{len(chosen)}-of-{len(self.nodes)}"
            if chosen and (sizes.disjoint or name not in {one.name for one in sets}):
                number = f"-{chr(ord('a') + len(sets))}" if sizes.disjoint and len(sizes.sizes) > 1 else ""
                sets.append(ForgetSet(name + number, tuple(sorted(chosen))))
        return tuple(sets), {node: why for node, why in passed.items() if not any(node in one.forget for one in sets)}

    def obstacle(self, node: NodePath, forget: set[NodePath]) -> str:
        """Why a node cannot be forgotten as one of a set; empty where it can."""
        retained = self._children[node[:-1]] - sum(1 for one in forget if one[:-1] == node[:-1])
        if retained < self._siblings:
            return f"{retained} of its siblings would be retained, of at least {self._siblings}"
        if any(not shown <= forget for shown in self._images.get(node, ())):
            return "records that would be retained show one of its images"
        for study, owners in self._studies.items():
            if node in owners and not owners <= forget:
                return f"a study called {study} would be on both sides"
        return ""


def _owns(hierarchy: Hierarchy, depth: int) -> bool:
    """Whether a level's nodes own their images: patients and those above; without such a level, all but the last."""
    levels = hierarchy.levels
    return depth <= (levels.index(_OWNER) + 1 if _OWNER in levels else len(levels) - 1)


def _shown(hierarchy: Hierarchy, depth: int) -> dict[NodePath, list[set[NodePath]]]:
    """By node, for each image that it shows, the nodes that show it; a record above the level stands for itself."""
    showing: dict[str, set[NodePath]] = defaultdict(set)
    for record in hierarchy.records:
        for image in record.images:
            showing[image_digest(image)].add(record.path[:depth])
    found: dict[NodePath, list[set[NodePath]]] = defaultdict(list)
    for nodes in showing.values():
        if len(nodes) > 1:
            for node in nodes:
                found[node].append(nodes)
    return found


def _studies(hierarchy: Hierarchy, depth: int) -> dict[str, set[NodePath]]:
    """Names of studies that stand under several nodes of a level which owns its studies, with those nodes."""
    levels = hierarchy.levels
    if _STUDY not in levels or _OWNER not in levels or depth > levels.index(_OWNER) + 1:
        return {}
    place = levels.index(_STUDY)
    owners: dict[str, set[NodePath]] = defaultdict(set)
    for node in hierarchy.nodes:
        if len(node) == place + 1:
            owners[node[place]].add(node[:depth])
    return {name: nodes for name, nodes in owners.items() if len(nodes) > 1}


def write_splits(path: Path, splits: Splits) -> None:
    """Write splits as JSON; docs/formats.md describes the file."""
    write_private(path, (json.dumps(as_json(splits), indent=1, ensure_ascii=False) + "\n").encode())


def as_json(splits: Splits) -> dict[str, Any]:
    """Splits as plain values."""
    return {
        "format": FORMAT,
        "min_siblings": splits.siblings,
        "levels": {
            level: [{"name": one.name, "forget": ["/".join(node) for node in one.forget]} for one in sets]
            for level, sets in splits.levels.items()
        },
        "passed_over": {
            level: [{"node": "/".join(node), "why": why} for node, why in sorted(nodes.items())]
            for level, nodes in splits.passed_over.items()
            if nodes
        },
    }


def read_splits(path: Path) -> Splits:
    """Splits from a file. Raises ChipError where it cannot be read or is of another form."""
    try:
        content = json.loads(path.read_bytes())
        found = _object(content)
        sets = {level: tuple(map(_set, every)) for level, every in found["levels"].items()}
        return Splits(sets, siblings=int(found.get("min_siblings", FEWEST_SIBLINGS)))
    except OSError as problem:
        raise ChipError(
            f"{path} cannot be read ({problem.strerror}); `chip medforget split DIR` writes one"
        ) from problem
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ChipError(f"{path} holds no splits of the form that `chip medforget split` writes") from problem


def _object(content: Any) -> Mapping[str, Any]:
    if content["format"] != FORMAT:
        raise ValueError(content["format"])
    return dict(content)


def _set(content: Mapping[str, Any]) -> ForgetSet:
    forget = content["forget"]
    if not isinstance(forget, list) or not forget:
        raise ValueError("forget")
    return ForgetSet(str(content["name"]), tuple(tuple(str(node).split("/")) for node in forget))


def _said(sets: Iterable[ForgetSet]) -> str:
    return ", ".join(one.name for one in sets)


def members(hierarchy: Hierarchy, forget: Iterable[NodePath]) -> frozenset[int]:
    """Positions of the records that a forget set takes along."""
    forget = tuple(forget)
    return frozenset(i for i, path in enumerate(hierarchy.paths) if any(is_under(path, node) for node in forget))
