"""The hierarchy as icicles: every node a cell beside its parent's, as deep a colour as its answers are right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chip.audit.figures.ink import WIDTH, Drawn, Key, Panel, canvas, colour, cut, heat, on_heat, panel
from chip.audit.wording import ROLES
from chip.readable import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE = "The hierarchy before and after"
MOST = 240
"""Nodes of one level that are shown; where there are more, those on the way to the target come first."""

_ROWS = 40
_FELL = 0.05
_NAMED = 24
_LINE = 7.5
"""Height of a name, in points."""

Node = Mapping[str, Any]
Ways = set[tuple[str, ...]]


@dataclass(frozen=True)
class _Cell:
    node: Node
    top: float
    height: float

    @property
    def depth(self) -> int:
        return len(self.node["path"])


def tree(report: Mapping[str, Any]) -> Drawn:
    """Share of answers that are right at every node and below it, before, after, and of the retrained model."""
    nodes: list[Node] = report["hierarchy"]
    if not nodes:
        return Drawn("tree", _TITLE, "No records sit on named nodes.")
    ways = _ways(nodes)
    shown = _shown(nodes, ways)
    roles = [role for role in ROLES if role in nodes[0]["accuracy"]]
    cells = _cells(shown, {tuple(one["path"][:-1]) for one in nodes})
    panels = tuple(_drawn(role, cells, _said(nodes, ways, role)) for role in roles)
    keys = (Key("low", "no answer right"), Key("high", "every answer right"), Key("outline", "the target"))
    rows = tuple(
        (readable("/".join(one["path"])), one["level"], str(one["records"]), *_shares(one, roles))
        for one in _telling(nodes, ways)
    )
    columns = ("node", "level", "records", *(ROLES[role] for role in roles))
    return Drawn("tree", _TITLE, _note(nodes, ways, shown), panels, keys, columns, rows)


def _shares(node: Node, roles: Sequence[str]) -> list[str]:
    return [f"{node['accuracy'][role]:.0%}" for role in roles]


def _fall(node: Node) -> float:
    return float(node["accuracy"]["base"] - node["accuracy"]["edited"])


def _telling(nodes: Sequence[Node], ways: Ways) -> list[Node]:
    """The nodes that a table names: the target with what holds it, and the others that fell most."""
    fell = sorted((one for one in _others(nodes, ways) if _fall(one) > 0), key=_fall, reverse=True)
    named = [one for one in nodes if tuple(one["path"]) in ways][:_ROWS]
    return named + fell[: _ROWS - len(named)]


def _ways(nodes: Sequence[Node]) -> Ways:
    """The outermost nodes of the target, and their ancestors."""
    targets = {tuple(one["path"]) for one in nodes if one["target"]}
    return {path[:depth] for path in targets if path[:-1] not in targets for depth in range(1, len(path) + 1)}


def _others(nodes: Sequence[Node], ways: Ways) -> list[Node]:
    """The nodes that neither are of the target nor hold it."""
    return [one for one in nodes if not one["target"] and tuple(one["path"]) not in ways]


def _said(nodes: Sequence[Node], ways: Ways, role: str) -> str:
    targets = [one for one in nodes if one["target"] and tuple(one["path"]) in ways]
    others = _others(nodes, ways)
    said = [f"{'/'.join(one['path'])} {one['accuracy'][role]:.0%}" for one in targets[:5]]
    if others:
        low = min(others, key=lambda one: one["accuracy"][role])
        said.append(f"lowest of the others {'/'.join(low['path'])} {low['accuracy'][role]:.0%}")
    return readable(f"Answers right: {'; '.join(said)}.")


def _note(nodes: Sequence[Node], ways: Ways, shown: Sequence[Node]) -> str:
    others = _others(nodes, ways)
    fell = [one for one in others if _fall(one) > _FELL]
    note = (
        "Each column is a level, each cell a node, coloured by how many answers are right at it and below. Of the "
        f"{len(others)} nodes that neither are of the target nor hold it, {len(fell) or 'none'} lost more than "
        f"{_FELL:.0%} of the answers."
    )
    if len(shown) < len(nodes):
        levels = Counter(one["level"] for one in nodes)
        drawn = Counter(one["level"] for one in shown)
        cut = [f"{drawn[level]} of {count} at {level}" for level, count in levels.items() if drawn[level] < count]
        note += f" Not all fit: shown are {', '.join(cut)}, those nearest to the target or most changed."
    return readable(note)


def _shown(nodes: Sequence[Node], ways: Ways) -> list[Node]:
    """The nodes that fit, level by level, in their order; a node is shown only under its parent."""
    chosen: list[Node] = []
    known: set[tuple[str, ...]] = {()}
    for depth in range(1, max(len(one["path"]) for one in nodes) + 1):
        level = [one for one in nodes if len(one["path"]) == depth and tuple(one["path"][:-1]) in known]
        if len(level) > MOST:
            level = [one for one in level if one["target"] or tuple(one["path"][:-1]) in ways or depth == 1]
        if len(level) > MOST:
            order = sorted(level, key=lambda one: (not one["target"], tuple(one["path"]) not in ways, -_fall(one)))
            kept = {tuple(one["path"]) for one in order[:MOST]}
            level = [one for one in level if tuple(one["path"]) in kept]
        known |= {tuple(one["path"]) for one in level}
        chosen += level
    return sorted(chosen, key=lambda one: one["path"])


def _cells(nodes: Sequence[Node], with_children: Ways) -> list[_Cell]:
    """A row for each node without children, and for each other node the rows of its children; some rows for one whose
    children are not shown, so that its name fits."""
    parents = {tuple(one["path"][:-1]) for one in nodes}
    tall = max(1.0, sum(tuple(one["path"]) not in parents for one in nodes) / _NAMED)
    found: dict[tuple[str, ...], list[float]] = {}
    row = 0.0
    for one in nodes:
        path = tuple(one["path"])
        if path not in parents:
            for depth in range(1, len(path) + 1):
                found.setdefault(path[:depth], [row, row])[1] = row + (tall if path in with_children else 1)
            row += tall if path in with_children else 1
    return [_Cell(one, found[tuple(one["path"])][0], _height(found[tuple(one["path"])])) for one in nodes]


def _height(rows: Sequence[float]) -> float:
    return rows[1] - rows[0]


def _drawn(role: str, cells: Sequence[_Cell], text: str) -> Panel:
    depth = max(one.depth for one in cells)
    rows = max(one.top + one.height for one in cells)
    inches = min(max(0.16 * rows, 1.2), 4.6 if rows <= 100 else 6.4)
    with canvas(inches + 0.3, layout=None) as figure:
        axes = figure.add_axes((0, 0, 1, inches / (inches + 0.3)))
        axes.set(xlim=(0, depth), ylim=(rows, 0))
        axes.set_axis_off()
        for one in cells:
            _draw(axes, one, one.node["accuracy"][role], 72 * inches / rows, 72 * WIDTH / depth)
        for path in sorted({tuple(one.node["path"]) for one in cells if one.node["target"]}):
            cell = next(one for one in cells if tuple(one.node["path"]) == path)
            if not any(tuple(one.node["path"]) == path[:-1] and one.node["target"] for one in cells):
                _outline(axes, cell, depth)
        names = {one.depth: one.node["level"] for one in cells}
        for place, name in names.items():
            letters = int(72 * WIDTH / depth / 4.6)
            axes.text(place - 0.97, -4 * rows / (72 * inches), cut(name, letters), fontsize=8, va="bottom")
        return panel(figure, f"tree-{role}", ROLES[role], text)


def _draw(axes: "Axes", cell: _Cell, share: float, row: float, column: float) -> None:
    """A cell and, where it fits, its name. row, column: points of one row and one column."""
    from matplotlib.patches import Rectangle

    gap = min(0.08, 0.6 / row) if row < 5 else 0.6 / row
    place = (cell.depth - 1 + 0.4 / column, cell.top + gap / 2)
    axes.add_patch(Rectangle(place, 1 - 0.8 / column, cell.height - gap, facecolor=heat(share), linewidth=0))
    if cell.height * row >= _LINE + 1:
        name = cut(cell.node["path"][-1], int(column / 4.4))
        middle = cell.top + cell.height / 2
        axes.text(cell.depth - 1 + 4 / column, middle, name, fontsize=_LINE, va="center", color=on_heat(share))


def _outline(axes: "Axes", cell: _Cell, depth: int) -> None:
    from matplotlib.patches import Rectangle

    width = depth - cell.depth + 1
    # A light line within a dark one shows on cells of every colour.
    for name, line in (("ink", 3.4), ("paper", 1.2)):
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": colour(name), "linewidth": line, "clip_on": False}
        axes.add_patch(Rectangle((cell.depth - 1, cell.top), width, cell.height, zorder=5, **look))
