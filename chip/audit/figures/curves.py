"""What an attack gets back the harder it tries: every finding that has a curve, a picture each."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from chip.audit.figures.ink import DASHES, MARKS, Drawn, Panel, canvas, colour, cut, panel, role_keys
from chip.audit.wording import ROLES
from chip.readable import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE = "What comes back as an attack grows stronger"


def curves(report: Mapping[str, Any]) -> Drawn:
    """Value by strength of the attack, for every model."""
    found = [
        (attack["name"], finding)
        for attack in report["attacks"]
        for finding in attack["findings"]
        if any(one["curve"] for one in finding["models"].values())
    ]
    if not found:
        return Drawn("curves", _TITLE, "No attack that was made has strengths to draw a curve of.")
    panels = tuple(_drawn(place, attack, finding) for place, (attack, finding) in enumerate(found))
    roles = {role for _, finding in found for role in finding["models"]}
    note = "Where the line after the edit stays by the retrained model's, the edit holds; where it climbs, it does not."
    if "gold" not in roles:
        note = "Where the line after the edit climbs towards the one before it, what was taken out can be brought back."
    rows = tuple(
        (readable(f"{attack}: {finding['name']}"), f"{x:g}", *_row(finding, x, sorted(roles, key=list(ROLES).index)))
        for attack, finding in found
        for x in sorted({x for one in finding["models"].values() for x, _ in one["curve"]})
    )
    columns = ("finding", "strength", *(ROLES[role] for role in ROLES if role in roles))
    return Drawn("curves", _TITLE, note, panels, role_keys(list(roles)), columns, rows)


def _row(finding: Mapping[str, Any], x: float, roles: Sequence[str]) -> list[str]:
    known = [dict(map(tuple, finding["models"][role]["curve"])) if role in finding["models"] else {} for role in roles]
    return [f"{one[x]:.2f}" if x in one else "–" for one in known]


def _drawn(place: int, attack: str, finding: Mapping[str, Any]) -> Panel:
    axis = cut(finding["axis"], 48) or "strength"
    with canvas(2.3) as figure:
        axes = figure.subplots()
        for role in ROLES:
            points = finding["models"].get(role, {"curve": []})["curve"]
            if points:
                x, y = zip(*points, strict=True)
                look: dict[str, Any] = {
                    "marker": MARKS[role],
                    "markersize": 4,
                    "linestyle": DASHES[role],
                    "clip_on": False,
                }
                if role == "gold":
                    look |= {"markerfacecolor": "none", "markersize": 6.5}
                axes.plot(x, y, color=colour(role), linewidth=1.5, **look)
        if finding["scale"] == "area":
            axes.axhline(0.5, color=colour("faint"), linewidth=0.7)
        axes.set(ylim=(-0.02, 1.02), yticks=(0, 0.5, 1), xlabel=axis, ylabel="comes back")
        if finding["scale"] != "share":
            axes.set_ylabel("told apart")
        _ticks(axes, next(one["curve"] for one in finding["models"].values() if one["curve"]))
        axes.grid(True)
        return panel(figure, f"curve-{place}", f"{attack}: {finding['name']}", f"By {axis}: {_said(finding)}.")


def _ticks(axes: "Axes", points: Sequence[Sequence[float]]) -> None:
    """A tick at each strength where they stand apart; to the right the attack is stronger."""
    places = sorted(x for x, _ in points)
    width = places[-1] - places[0]
    if all(9 * (after - before) >= width for before, after in pairwise(places)):
        axes.set_xticks(places, [f"{place:g}" for place in places])
    else:
        axes.locator_params(axis="x", nbins=6)
    if points[0][0] > points[-1][0]:
        axes.invert_xaxis()


def _said(finding: Mapping[str, Any]) -> str:
    said = []
    for role, name in ROLES.items():
        points = finding["models"].get(role, {"curve": []})["curve"]
        if points:
            (first, least), (last, most) = points[0], points[-1]
            said.append(f"{name} {least:.2f} at {first:g} and {most:.2f} at {last:g}")
    return "; ".join(said)
