"""Who stands where: records, the tree of nodes they hang on, and the split that a request to forget makes of them.

Everything here is pure Python on paths, so that an edit, a benchmark and an audit divide the records the same way.
A node is named by its path, the tuple of names from the root.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chip.errors import ChipError

NodePath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One question and answer about a node, with the images it shows; or, where `text` is set, a plain document."""

    path: NodePath
    question: str = ""
    answer: str = ""
    images: tuple[Path, ...] = ()
    paraphrases: tuple[str, ...] = ()
    text: str | None = None
    options: tuple[str, ...] = ()
    """Of a multiple-choice question, the answers to choose from, its own among them; edits never see them."""
    translations: tuple[tuple[str, str], ...] = ()
    """The question in other languages, (language, question) each, for attacks; nothing else reads them."""
    line: int = 0
    """Where the record stands in its file, from 1; errors name a record by this and never by its content."""


@dataclass(frozen=True)
class ComparisonSet:
    """A part of a target and the retained positions it is compared with: positions in the list of paths given."""

    part: tuple[int, ...]
    comparison: tuple[int, ...]


def shape(record: Record) -> str:
    """A question without the names of the nodes that its record is of: what two nodes' records ask alike.

    >>> shape(Record(("st_marys", "patient_1"), "When was patient_1 born?"))
    'When was … born?'
    """
    names = sorted((name for name in record.path if name in record.question), key=len, reverse=True)
    if not names:
        return record.question
    return re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", "…", record.question)


def is_under(path: NodePath, node: NodePath) -> bool:
    """Whether `path` is the node itself or lies below it.

    >>> is_under(("st_marys", "patient_1", "study_3"), ("st_marys", "patient_1"))
    True
    >>> is_under(("st_marys",), ("st_marys", "patient_1"))
    False
    """
    return path[: len(node)] == node


def outermost(nodes: Iterable[NodePath]) -> tuple[NodePath, ...]:
    """The nodes without those that lie below another of them, each once, in order.

    >>> outermost([("st_marys", "patient_1", "study_3"), ("st_marys", "patient_1"), ("lakeside",)])
    (('lakeside',), ('st_marys', 'patient_1'))
    """
    found = set(nodes)
    return tuple(node for node in sorted(found) if not any(node[:depth] in found for depth in range(1, len(node))))


def comparison_sets(paths: Sequence[NodePath], targets: Iterable[NodePath]) -> list[ComparisonSet]:
    """The parts of every target and what each is compared with (docs/mathematics.md, "Directions").

    The parts of a target are its children and, where it has any, its own records. A child is compared with the
    retained paths of the child's depth or deeper under the target's parent; own records with paths of exactly the
    target's depth; where that is empty, one ancestor further up, to the root, and at last with all that is retained.
    `paths` may name records or whole nodes, and only those that reach the site in question.

    Of a patient with a study, beside another patient with one and a hospital's own record, the study is compared with
    the other's study, and the patient's own record with the other's own:

    >>> a, b = ("h", "a"), ("h", "b")
    >>> for one in comparison_sets([("h",), a, (*a, "s"), b, (*b, "t")], [a]):
    ...     print(one.part, one.comparison)
    (2,) (4,)
    (1,) (3,)
    """
    targets = tuple(targets)
    retained = [i for i, path in enumerate(paths) if not any(is_under(path, target) for target in targets)]
    found = []
    for target in targets:
        depth = len(target)
        children: dict[NodePath, list[int]] = {}
        own: list[int] = []
        for i, path in enumerate(paths):
            if is_under(path, target):
                (children.setdefault(path[: depth + 1], []) if len(path) > depth else own).append(i)
        below = [i for i in retained if len(paths[i]) > depth]
        level = [i for i in retained if len(paths[i]) == depth]
        parts = [(children[child], below) for child in sorted(children)] + ([(own, level)] if own else [])
        found += [
            ComparisonSet(tuple(part), tuple(_nearest(paths, target, comparable) or retained))
            for part, comparable in parts
        ]
    return found


def _nearest(paths: Sequence[NodePath], target: NodePath, comparable: Sequence[int]) -> list[int]:
    for length in range(len(target) - 1, -1, -1):
        near = [i for i in comparable if is_under(paths[i], target[:length])]
        if near:
            return near
    return []


@dataclass(frozen=True)
class Split:
    """What a request to forget makes of the records; every field holds positions in `Hierarchy.records`.

    `target`, `siblings`, `shared` and `rest` are disjoint and together everything; `retain` is all but the target.
    `comparison` is the union of the targets' comparison sets.
    """

    targets: tuple[NodePath, ...]
    target: tuple[int, ...]
    siblings: tuple[int, ...]
    shared: tuple[int, ...]
    rest: tuple[int, ...]
    comparison: tuple[int, ...]

    @cached_property
    def retain(self) -> tuple[int, ...]:
        return tuple(sorted(self.siblings + self.shared + self.rest))


class Hierarchy:
    """Records in the order of their file, the named levels of their paths, and the nodes that they hang on."""

    def __init__(self, levels: Sequence[str], records: Sequence[Record]) -> None:
        self.levels = tuple(levels)
        self.records = tuple(records)

    @cached_property
    def paths(self) -> tuple[NodePath, ...]:
        return tuple(record.path for record in self.records)

    @cached_property
    def nodes(self) -> frozenset[NodePath]:
        """Every node that holds a record, with all its ancestors; the root is left out."""
        return frozenset(path[:length] for path in set(self.paths) for length in range(1, len(path) + 1))

    def outside(self, nodes: Iterable[NodePath]) -> tuple[int, ...]:
        """Positions of the records that lie neither on these nodes nor below them."""
        nodes = tuple(nodes)
        return tuple(i for i, path in enumerate(self.paths) if not any(is_under(path, node) for node in nodes))

    def without(self, nodes: Iterable[NodePath]) -> "Hierarchy":
        """What is left once these nodes are gone with all that is under them: as if they had never been."""
        return Hierarchy(self.levels, [self.records[i] for i in self.outside(nodes)])

    def level_of(self, node: NodePath) -> str:
        return self.levels[len(node) - 1]

    def resolve(self, name: str) -> NodePath:
        """The node that a name, an unambiguous trailing part of a path, or a whole path means.

        Raises ChipError where no node is meant, or more than one; the message lists what may have been meant.
        """
        spelled = {node: "/".join(node) for node in self.nodes}
        exact = [node for node, path in spelled.items() if path == name]
        found = exact or self.namesakes(name)
        if len(found) == 1:
            return found[0]
        if found:
            candidates = _listed(sorted(spelled[node] for node in found))
            raise ChipError(f"{name!r} names {len(found)} nodes; give more of the path: {candidates}")
        near = sorted(spelled[node] for node in self.nodes if name and name.lower() in node[-1].lower())
        hint = f"did you mean {_listed(near)}?" if near else "`chip inspect MODEL --data DIR` lists the nodes"
        raise ChipError(f"no node is called {name!r} in these records; {hint}")

    def namesakes(self, name: str) -> list[NodePath]:
        """Nodes below the root's children whose path ends in a name: not meant where that is a whole path itself."""
        return sorted(node for node in self.nodes if "/".join(node).endswith("/" + name))

    def split(self, targets: Iterable[NodePath]) -> Split:
        """Target, siblings, shared, rest and comparison records for the nodes to forget.

        Raises ChipError where a target holds no record, lies inside another, or where nothing would be retained.
        """
        targets = tuple(sorted(set(targets)))
        if not targets:
            raise ChipError("nothing to forget: name at least one node with --forget")
        self._refuse_nested(targets)
        target, siblings, shared, rest = [], [], [], []
        for i, path in enumerate(self.paths):
            if any(is_under(path, node) for node in targets):
                target.append(i)
            elif any(is_under(node, path) for node in targets):
                shared.append(i)
            elif any(len(node) > 1 and len(path) >= len(node) and is_under(path, node[:-1]) for node in targets):
                siblings.append(i)
            else:
                rest.append(i)
        for node in targets:
            if not any(is_under(self.paths[i], node) for i in target):
                raise ChipError(f"{'/'.join(node)} holds no record: there is nothing to forget")
        if len(target) == len(self.records):
            raise ChipError(
                "the target is every record: nothing would be retained, so there is nothing to compare with"
            )
        comparison = {i for found in comparison_sets(self.paths, targets) for i in found.comparison}
        return Split(targets, tuple(target), tuple(siblings), tuple(shared), tuple(rest), tuple(sorted(comparison)))

    @staticmethod
    def _refuse_nested(targets: tuple[NodePath, ...]) -> None:
        for outer in targets:
            for inner in targets:
                if outer != inner and is_under(inner, outer):
                    raise ChipError(
                        f"{'/'.join(inner)} lies inside {'/'.join(outer)}, which is to be forgotten too; name only one"
                    )


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
