"""The forget–retain plane: every model as a point, and the front of those that no other beats."""

from collections.abc import Mapping, Sequence
from typing import Any

from chip.audit.figures.ink import MARKS, WIDTH, Drawn, Key, Panel, canvas, colour, panel, role_keys
from chip.audit.wording import ROLES
from chip.readable import readable

_TITLE = "Forgotten and kept"
_SIZES = {"base": 42, "edited": 42, "gold": 120}


def scatter(report: Mapping[str, Any]) -> Drawn:
    """How much of the target each model still answers, and how much of what is retained, in percent."""
    points = [one for one in report["methods"] if one["target"] is not None and one["retained"] is not None]
    if not points:
        return Drawn("plane", _TITLE, "No records were retained, so that there is nothing to hold the target against.")
    marks = _marks(points)
    text = f"Right of the target and of the retained records: {'; '.join(_said(one) for one in points[:6])}."
    front = [_label(one) for one in points if one["on_front"]]
    note = (
        "The upper left corner is the goal. On the front, where no other edited model is at least as good in "
        f"both and better in one: {', '.join(front)}."
    )
    keys = (
        *role_keys([one["name"] for one in points]),
        *(Key("other", readable(one["name"]), marks[one["name"]]) for one in points if one["name"] not in ROLES),
    )
    rows = tuple(
        (_label(one), f"{one['target']:.0%}", f"{one['retained']:.0%}", "yes" if one["on_front"] else "")
        for one in points
    )
    columns = ("model", "target still answered", "retained answers right", "on the front")
    return Drawn("plane", _TITLE, note, (_drawn(points, marks, text),), keys, columns, rows)


def _drawn(points: Sequence[Mapping[str, Any]], marks: Mapping[str, str], text: str) -> Panel:
    with canvas(3.0, WIDTH + 0.6) as figure:
        axes = figure.subplots()
        front = sorted((100 * one["target"], 100 * one["retained"]) for one in points if one["on_front"])
        axes.plot(*zip(*front, strict=True), color=colour("faint"), linewidth=1, drawstyle="steps-post")
        for one in points:
            x, y, name = 100 * one["target"], 100 * one["retained"], one["name"]
            if name in ROLES:
                look: dict[str, Any] = {
                    "facecolor": "none" if name == "gold" else colour(name),
                    "edgecolor": colour(name),
                }
                axes.scatter(
                    [x], [y], marker=MARKS[name], s=_SIZES[name], linewidth=1.6, zorder=4, clip_on=False, **look
                )
            else:
                axes.scatter([x], [y], marker="o", s=90, color=colour("other"), zorder=3, clip_on=False)
                axes.text(x, y, marks[name], color=colour("paper"), fontsize=7, ha="center", va="center", zorder=5)
        axes.set(xlabel="target still answered, %", ylabel="retained answers right, %", xlim=(-3, 103), ylim=(-3, 103))
        axes.grid(True)
        return panel(figure, "plane", "Every model in the forget–retain plane", text)


def _marks(points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    others = [one["name"] for one in points if one["name"] not in ROLES]
    return {name: str(number) for number, name in enumerate(others, 1)}


def _said(point: Mapping[str, Any]) -> str:
    return f"{_label(point)} {point['target']:.0%} and {point['retained']:.0%}"


def _label(point: Mapping[str, Any]) -> str:
    return ROLES.get(point["name"]) or readable(point["name"])
