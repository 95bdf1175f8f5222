"""Which retained records run beside the target: those whose answers stand in for its own, and those that are watched.

They are at most so many, whatever the number of retained records, so that a request takes no longer where there are
more of them. What is not among them is held by the statistics alone.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from chip.hierarchy import NodePath
from chip.solve.problem import Problem

_ALIKE_ENOUGH = 512
"""Comparison records that are looked through for a like question, where none is the same."""


def held_records(problem: Problem, most: int) -> tuple[int, ...]:
    """Positions of at most `most` retained records: half of them those that ask what the target's records ask, then
    the comparison records, then the others; of each, from all nodes once before from any twice, drawn by seed.

    Looks once at the question of every retained record, and at nothing else of those that are not held.
    """
    split, draw = problem.split, random.Random(problem.settings.seed + problem.turn)
    compared, others = by_node(problem, split.comparison, draw), by_node(problem, split.retain, draw)
    shapes = problem.hierarchy.shapes
    asking: dict[str, list[int]] = {shapes[position]: [] for position in split.target}
    for position in dict.fromkeys((*compared, *others)):
        if (asked := asking.get(shapes[position])) is not None:
            asked.append(position)
    alike = [asking[one] or _alike(problem, one, compared) for one in sorted(asking)]
    first = list(dict.fromkeys(_in_turn(alike)))
    return tuple(sorted(list(dict.fromkeys((*first[: max(most // 2, 1)], *compared, *others)))[:most]))


def by_node(problem: Problem, positions: Sequence[int], draw: random.Random) -> list[int]:
    """The positions, drawn from all their nodes once before from any of them twice."""
    nodes: dict[NodePath, list[int]] = {}
    for position in draw.sample(positions, len(positions)):
        nodes.setdefault(problem.hierarchy.paths[position], []).append(position)
    return list(_in_turn(nodes.values()))


def donors(problem: Problem, held: Sequence[int]) -> dict[int, int]:
    """How near held records are to the target, as ranks by position, the nearest first: the comparison's nodes before
    others, and one node's records together, so that what stands in for the target is of a piece."""
    depth = max(map(len, problem.split.targets))
    compared, draw = set(problem.split.comparison), random.Random(problem.settings.seed)
    nodes = sorted({problem.hierarchy.paths[position][:depth] for position in held})
    near = {problem.hierarchy.paths[position][:depth] for position in held if position in compared}
    order = sorted(draw.sample(nodes, len(nodes)), key=lambda node: node not in near)
    rank = {node: number for number, node in enumerate(order)}
    return {position: rank[problem.hierarchy.paths[position][:depth]] for position in held}


def _alike(problem: Problem, wanted: str, compared: Sequence[int]) -> list[int]:
    """The comparison records whose words are most like a question that nobody else asks."""
    few = compared[:_ALIKE_ENOUGH]
    return sorted(few, key=lambda position: -likeness(wanted, problem.hierarchy.shapes[position]))[:8]


def likeness(first: str, second: str) -> float:
    """The share of the words of both that they have in common, from 0 to 1."""
    one, other = set(first.lower().split()), set(second.lower().split())
    return len(one & other) / max(len(one | other), 1)


def _in_turn(lists: Iterable[Sequence[int]]) -> Iterator[int]:
    """The first of each, then the second of each, and so on."""
    for places in zip_longest(*lists):
        yield from (place for place in places if place is not None)
