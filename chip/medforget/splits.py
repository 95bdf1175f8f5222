"""Forget and retain sets at every level, and what must hold of them.

A forgotten node takes all its descendants with it; every target keeps two retained siblings; what a patient owns, an
image or a study, stands on one side alone; a shared ancestor's facts stay retained.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from chip.errors import ChipError, UsageError
from chip.files import read_small, write_private
from chip.hierarchy import Hierarchy, NodePath
from chip.medforget.selection import in_drawn_order
from chip.records.digests import image_digest
from chip.training_settings import at_least

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
    target, or not beside those that are, and why. siblings: how many retained ones every target
    keeps. unmet: by level, sizes for which there were not targets enough."""

    levels: Mapping[str, tuple[ForgetSet, ...]]
    passed_over: Mapping[str, Mapping[NodePath, str]] = field(default_factory=dict)
    siblings: int = FEWEST_SIBLINGS
    unmet: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

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
    at_least("--min-siblings", siblings, 0)
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
    found, passed, unmet = {}, {}, {}
    for level in levels or hierarchy.levels:
        if level not in hierarchy.levels:
            raise UsageError(f"--level {level!r} is none of {', '.join(hierarchy.levels)}")
        found[level], passed[level], unmet[level] = _Level(hierarchy, level, seed, sizes.siblings).divide(sizes)
    return Splits(found, passed, sizes.siblings, unmet)


def refuse_unsound(
    hierarchy: Hierarchy, level: str, forget: Sequence[NodePath], siblings: int = FEWEST_SIBLINGS
) -> None:
    """Raise ChipError, naming the node, where a forget set breaks what must hold of it."""
    one = _Level(hierarchy, level, 0, siblings)
    every = frozenset(forget)
    beside = Counter(node[:-1] for node in every)
    for node in forget:
        if node not in one.nodes:
            raise ChipError(f"{'/'.join(node)} is no {level} in these records")
        if why := one.obstacle(node, every, beside[node[:-1]]):
            raise ChipError(
                f"{'/'.join(node)} cannot be forgotten at level {level}: {why}; `chip medforget split` chooses others"
            )


def kept_siblings(hierarchy: Hierarchy, sets: Iterable[ForgetSet]) -> int:
    """How many retained nodes of its level the loneliest target of some forget sets keeps under its parent."""
    nodes: Counter[tuple[NodePath, int]] = Counter((node[:-1], len(node)) for node in hierarchy.nodes)
    fewest = [
        nodes[parent, length] - count
        for one in sets
        for (parent, length), count in Counter((node[:-1], len(node)) for node in one.forget).items()
    ]
    return min(fewest, default=0)


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

    def divide(self, sizes: Sizes) -> tuple[tuple[ForgetSet, ...], dict[NodePath, str], tuple[int, ...]]:
        """Forget sets, nodes that are passed over, and sizes that were not reached."""
        unmet = []
        passed: dict[NodePath, str] = {}
        used: set[NodePath] = set()
        sets: list[ForgetSet] = []
        chosen = _Chosen()
        for size in sizes.of(len(self.nodes)):
            if sizes.disjoint:
                chosen = _Chosen()
            for node in self._drawn:
                if len(chosen.nodes) >= size:
                    break
                if node in chosen.nodes or node in used:
                    continue
                chosen.add(node)
                if why := self.obstacle(node, chosen.nodes, chosen.beside[node[:-1]]):
                    chosen.remove(node)
                    passed[node] = why
            if len(chosen.nodes) < size:
                unmet.append(size)
            if sizes.disjoint:
                used |= chosen.nodes
            name = f"{len(chosen.nodes)}-of-{len(self.nodes)}"
            if chosen.nodes and (sizes.disjoint or name not in {one.name for one in sets}):
                number = f"-{len(sets) + 1}" if sizes.disjoint and len(sizes.sizes) > 1 else ""
                sets.append(ForgetSet(name + number, tuple(sorted(chosen.nodes))))
        targets = {node for one in sets for node in one.forget}
        left = {node: why for node, why in passed.items() if node not in targets}
        return tuple(sets), left, tuple(unmet)

    def obstacle(self, node: NodePath, forget: Collection[NodePath], beside: int) -> str:
        """Why a node cannot be forgotten as one of a set, of which so many lie under its parent; empty where it can."""
        retained = self._children[node[:-1]] - beside
        if retained < self._siblings:
            return f"{retained} of its siblings would be retained, of at least {self._siblings}"
        if any(one not in forget for shown in self._images.get(node, ()) for one in shown):
            return "records that would be retained show one of its images"
        for study, owners in self._studies.get(node, {}).items():
            if any(one not in forget for one in owners):
                return f"its study {study} stands under another node that would be retained"
        return ""


class _Chosen:
    """Nodes that are chosen so far, and how many of them lie under each parent."""

    def __init__(self) -> None:
        self.nodes: set[NodePath] = set()
        self.beside: Counter[NodePath] = Counter()

    def add(self, node: NodePath) -> None:
        self.nodes.add(node)
        self.beside[node[:-1]] += 1

    def remove(self, node: NodePath) -> None:
        self.nodes.remove(node)
        self.beside[node[:-1]] -= 1


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


def _studies(hierarchy: Hierarchy, depth: int) -> dict[NodePath, dict[str, set[NodePath]]]:
    """By node of a level that owns its studies, those that stand under other nodes too, by name, with all these nodes.
    Two studies are one where they have the same name and the same records: `study_1` alone is everybody's."""
    levels = hierarchy.levels
    if _STUDY not in levels or _OWNER not in levels or depth > levels.index(_OWNER) + 1:
        return {}
    place = levels.index(_STUDY)
    said: dict[NodePath, set[tuple[NodePath, str, str]]] = defaultdict(set)
    for record in hierarchy.records:
        if len(record.path) > place:
            below = record.path[place + 1 :]
            said[record.path[: place + 1]].add((below, record.question, record.answer or record.text or ""))
    owners: dict[tuple[str, frozenset[tuple[NodePath, str, str]]], set[NodePath]] = defaultdict(set)
    for node, content in said.items():
        owners[node[place], frozenset(content)].add(node[:depth])
    found: dict[NodePath, dict[str, set[NodePath]]] = defaultdict(dict)
    for (name, _), nodes in owners.items():
        for node in nodes if len(nodes) > 1 else ():
            found[node][name] = nodes
    return found


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
        content = json.loads(read_small(path))
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
    forget = frozenset(forget)
    depths = sorted({len(node) for node in forget})
    return frozenset(
        place for place, path in enumerate(hierarchy.paths) if any(path[:depth] in forget for depth in depths)
    )
