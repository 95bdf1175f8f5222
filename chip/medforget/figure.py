"""The figure of a run: of every method and level, what is left of the forget set and what is kept of the rest."""

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from chip.medforget.examination import Outcome, match_of
from chip.readable import readable

if TYPE_CHECKING:
    from chip.medforget.contest import Contest

_TARGET, _KEPT, _FAINT = "#c2410c", "#1d4e89", "#9aa5b1"
_MARKS: Mapping[str, Mapping[str, Any]] = {
    "target": {"color": _TARGET, "marker": "o", "s": 46},
    "rephrased": {"facecolors": "none", "edgecolors": _TARGET, "marker": "o", "s": 80},
    "siblings": {"color": _KEPT, "marker": "D", "s": 34},
    "rest": {"facecolors": "none", "edgecolors": _KEPT, "marker": "s", "s": 70},
}


def figure(known: Mapping["Contest", Mapping[str, Outcome]]) -> bytes:
    """A PNG with a panel a contest: a line a method, and on it the shares of records that are answered word for word,
    in the forget set and beside it. A grey band goes from what a retrained model knows of the forget set to 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for rows in known.values() for name in rows))
    size = (2.2 + 2.6 * len(known), 1.6 + 0.34 * len(names))
    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(1, len(known), sharey=True, squeeze=False)[0]
    for axes, (contest, rows) in zip(panels, known.items(), strict=True):
        _draw(axes, names, rows)
        axes.set_title(readable(contest.name), fontsize=10, parse_math=False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    stream = BytesIO()
    drawn.savefig(stream, format="png", dpi=130, metadata={"Software": "chip-medforget"})
    return stream.getvalue()


def _draw(axes: Any, names: list[str], rows: Mapping[str, Outcome]) -> None:
    for name, mark in _MARKS.items():
        places = [
            (share, place) for place, row in enumerate(names) if (share := match_of(rows.get(row), name)) is not None
        ]
        axes.scatter([x for x, _ in places], [y for _, y in places], label=name, zorder=3, clip_on=False, **mark)
    for place, row in enumerate(names):
        if "groups" not in rows.get(row, {}):
            said = "failed" if row in rows else "not run"
            axes.text(0.5, place, said, color=_FAINT, ha="center", va="center", fontsize=8)
    retrained = match_of(rows.get("retrained"), "target")
    if retrained is not None:
        axes.axvspan(0, retrained, color=_FAINT, alpha=0.18, zorder=0, linewidth=0)
    axes.set(xlim=(-0.04, 1.04), xlabel="answered word for word")
    axes.grid(axis="y", color=_FAINT, linewidth=0.5, alpha=0.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
