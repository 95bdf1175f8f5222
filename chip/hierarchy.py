"""Who stands where: records, the tree of nodes they hang on, and the split that a request to forget makes of them.

Everything here is pure Python on paths, so that an edit, a benchmark and an audit divide the records the same way.
A node is named by its path, the tuple of names from the root.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chip.errors import ChipError
from chip.phrases import Words

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


def said(record: Record) -> str:
    """All that a record says."""
    return f"{record.question}\n{record.answer}\n{record.text or ''}"


def is_under(path: NodePath, node: NodePath) -> bool:
    """Whether `path` is the node itself or lies below it.

    >>> is_under(("st_marys", "patient_1", "study_3"), ("st_marys", "patient_1"))
    True
    >>> is_under(("st_marys",), ("st_marys", "patient_1"))
    False
    """
    return path[: len(node)] == node


def lies_within(path: NodePath, nodes: Set[NodePath]) -> bool:
    """Whether `path` is one of the nodes or lies below one, in time that does not grow with their number."""
    return any(path[:length] in nodes for length in range(len(path) + 1))


def outermost(nodes: Iterable[NodePath]) -> tuple[NodePath, ...]:
    """The nodes without those that lie below another of them, each once, in order.

    >>> outermost([("st_marys", "patient_1", "study_3"), ("st_marys", "patient_1"), ("lakeside",)])
    (('lakeside',), ('st_marys', 'patient_1'))
    """
    found = frozenset(nodes)
    return tuple(node for node in sorted(found) if not lies_within(node[:-1], found))


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
    under: dict[NodePath, list[int]] = {}
    for i, path in enumerate(paths):
        for length in range(len(path) + 1):
            under.setdefault(path[:length], []).append(i)
    gone = frozenset(i for target in targets for i in under.get(target, ()))
    retained = tuple(i for i in range(len(paths)) if i not in gone)
    found = []
    for target in targets:
        depth = len(target)
        children: dict[NodePath, list[int]] = {}
        own: list[int] = []
        for i in under.get(target, ()):
            (children.setdefault(paths[i][: depth + 1], []) if len(paths[i]) > depth else own).append(i)
        rings = [under.get(target[:length], ()) for length in range(depth - 1, -1, -1)]
        if children:
            cousins = _nearest([i for i in ring if i not in gone and len(paths[i]) > depth] for ring in rings)
            found += [ComparisonSet(tuple(children[child]), cousins or retained) for child in sorted(children)]
        if own:
            equals = _nearest([i for i in ring if i not in gone and len(paths[i]) == depth] for ring in rings)
            found.append(ComparisonSet(tuple(own), equals or retained))
    return found


def _nearest(rings: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The first ring that holds any."""
    return next((tuple(ring) for ring in rings if ring), ())


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
    """Records in the order of their file, the named levels of their paths, and the nodes that they hang on.

    What is asked of paths is worked out once for each node that holds records, not for each record: records are ten
    times as many and more, and a batch asks for every request.
    """

    def __init__(
        self,
        levels: Sequence[str],
        records: Sequence[Record],
        origin: "Hierarchy | None" = None,
        places: Sequence[int] | None = None,
    ) -> None:
        """origin, places: where some records were taken away, what these are left of, and where they stand in it."""
        self.levels = tuple(levels)
        self.records = tuple(records)
        self.origin = self if origin is None else origin
        self._places = range(len(self.records)) if places is None else places

    @cached_property
    def paths(self) -> tuple[NodePath, ...]:
        return tuple(record.path for record in self.records)

    @cached_property
    def holding(self) -> tuple[NodePath, ...]:
        """The nodes that hold records themselves, in the order of the first of these."""
        return tuple(dict.fromkeys(self.paths))

    @cached_property
    def nodes(self) -> frozenset[NodePath]:
        """Every node that holds a record, with all its ancestors; the root is left out."""
        return frozenset(path[:length] for path in self.holding for length in range(1, len(path) + 1))

    def outside(self, nodes: Iterable[NodePath]) -> tuple[int, ...]:
        """Positions of the records that lie neither on these nodes nor below them."""
        gone = frozenset(nodes)
        left = frozenset(path for path in self.holding if not lies_within(path, gone))
        return tuple(i for i, path in enumerate(self.paths) if path in left)

    def without(self, nodes: Iterable[NodePath]) -> "Hierarchy":
        """What is left once these nodes are gone with all that is under them: as if they had never been."""
        kept = self.outside(nodes)
        places = [self._places[i] for i in kept]
        return Hierarchy(self.levels, [self.records[i] for i in kept], self.origin, places)

    @cached_property
    def shapes(self) -> tuple[str, ...]:
        """What each record asks, without the names of its nodes (`shape`)."""
        if self.origin is self:
            return tuple(map(shape, self.records))
        return tuple(self.origin.shapes[i] for i in self._places)

    @cached_property
    def words(self) -> Words:
        """The words of every record's question, answer and text, by the record's position."""
        return Words(map(said, self.records))

    @cached_property
    def showing(self) -> Mapping[Path, Sequence[int]]:
        """Positions of the records that show an image, by its file."""
        found: dict[Path, list[int]] = {}
        for i, record in enumerate(self.records):
            for file in dict.fromkeys(record.images):
                found.setdefault(file, []).append(i)
        return found

    def level_of(self, node: NodePath) -> str:
        return self.levels[len(node) - 1]

    def resolve(self, name: str) -> NodePath:
        """The node that a name, an unambiguous trailing part of a path, or a whole path means.

        Raises ChipError where no node is meant, or more than one; the message lists what may have been meant.
        """
        exact = [node for node in self._bearing(name) if "/".join(node) == name]
        found = exact or self.namesakes(name)
        if len(found) == 1:
            return found[0]
        if found:
            candidates = _listed(sorted("/".join(node) for node in found))
            raise ChipError(f"{name!r} names {len(found)} nodes; give more of the path: {candidates}")
        near = sorted("/".join(node) for node in self.nodes if name and name.lower() in node[-1].lower())
        hint = f"did you mean {_listed(near)}?" if near else "`chip inspect MODEL --data DIR` lists the nodes"
        raise ChipError(f"no node is called {name!r} in these records; {hint}")

    def namesakes(self, name: str) -> list[NodePath]:
        """Nodes below the root's children whose path ends in a name: not meant where that is a whole path itself."""
        return sorted(node for node in self._bearing(name) if "/".join(node).endswith("/" + name))

    def _bearing(self, name: str) -> Sequence[NodePath]:
        """The nodes whose own name ends a name as it is given."""
        return self._by_name.get(name.rpartition("/")[-1], ())

    @cached_property
    def _by_name(self) -> dict[str, list[NodePath]]:
        found: dict[str, list[NodePath]] = {}
        for node in self.nodes:
            found.setdefault(node[-1].rpartition("/")[-1], []).append(node)
        return found

    def split(self, targets: Iterable[NodePath]) -> Split:
        """Target, siblings, shared, rest and comparison records for the nodes to forget.

        Raises ChipError where a target holds no record, lies inside another, or where nothing would be retained.
        """
        wanted = frozenset(targets)
        if not wanted:
            raise ChipError("nothing to forget: name at least one node with --forget")
        _refuse_nested(wanted)
        above = frozenset(node[:length] for node in wanted for length in range(len(node)))
        parents = frozenset(node[:-1] for node in wanted if len(node) > 1)
        group_of = {path: _group(path, wanted, above, parents) for path in self.holding}
        groups: dict[str, list[int]] = {name: [] for name in ("target", "siblings", "shared", "rest")}
        for i, path in enumerate(self.paths):
            groups[group_of[path]].append(i)
        for node in sorted(wanted - self.nodes):
            raise ChipError(f"{'/'.join(node)} holds no record: there is nothing to forget")
        if len(groups["target"]) == len(self.records):
            raise ChipError(
                "the target is every record: nothing would be retained, so there is nothing to compare with"
            )
        found = {one.comparison for one in comparison_sets(self.holding, wanted)}
        compared = {self.holding[i] for comparison in found for i in comparison}
        comparison = tuple(i for i, path in enumerate(self.paths) if path in compared)
        target, siblings, shared, rest = (tuple(positions) for positions in groups.values())
        return Split(tuple(sorted(wanted)), target, siblings, shared, rest, comparison)


def _group(path: NodePath, targets: Set[NodePath], above: Set[NodePath], parents: Set[NodePath]) -> str:
    """Which field of a split the records on a node belong to."""
    if lies_within(path, targets):
        return "target"
    if path in above:
        return "shared"
    return "siblings" if lies_within(path[:-1], parents) else "rest"


def _refuse_nested(targets: Set[NodePath]) -> None:
    for inner in sorted(targets):
        for outer in (inner[:depth] for depth in range(1, len(inner))):
            if outer in targets:
                raise ChipError(
                    f"{'/'.join(inner)} lies inside {'/'.join(outer)}, which is to be forgotten too; name only one"
                )


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
