"""How surprised each model is at the true answers: losses of the target's records, and of the retained ones."""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import median
from typing import Any

import numpy as np

from chip.audit.figures.ink import Drawn, Panel, canvas, colour, panel, role_keys
from chip.audit.wording import ROLES

_TITLE = "Surprise at the true answers"
_BINS = 24
_NAMES = {"target": "the target's records", "retained": "retained records"}


def histograms(report: Mapping[str, Any]) -> Drawn:
    """Answer losses in nats a token, as shares of the records, on one axis for all."""
    losses = {
        kind: {role: [one for one in found if isfinite(one)] for role, found in report["losses"][kind].items()}
        for kind in _NAMES
    }
    drawn = {kind: {role: one for role, one in found.items() if one} for kind, found in losses.items()}
    values = [one for found in drawn.values() for some in found.values() for one in some]
    if not values:
        return Drawn("losses", _TITLE, "No answer's loss was measured.")
    most = max(*values, 1e-3)
    panels = tuple(_drawn(kind, found, most) for kind, found in drawn.items() if found)
    note = (
        "A model that does not know an answer is surprised at it. After a good edit the target's records lie where "
        "the retrained model's do, and the retained ones where they lay before."
    )
    rows = tuple(
        (f"{ROLES[role]}, {_NAMES[kind]}", str(len(some)), *(f"{np.quantile(some, q):.2f}" for q in (0.05, 0.5, 0.95)))
        for kind, found in drawn.items()
        for role, some in found.items()
    )
    columns = ("model and records", "records", "5 % lie below", "median", "95 % lie below")
    return Drawn("losses", _TITLE, note, panels, role_keys(list(drawn["target"] | drawn["retained"])), columns, rows)


def _drawn(kind: str, found: Mapping[str, Sequence[float]], most: float) -> Panel:
    roles = [role for role in ROLES if role in found]
    edges = np.linspace(0, most, _BINS + 1)
    with canvas(0.75 * len(roles) + 0.6) as figure:
        for axes, role in zip(figure.subplots(len(roles), sharex=True, squeeze=False)[:, 0], roles, strict=True):
            shares = 100 * np.histogram(found[role], edges)[0] / len(found[role])
            axes.bar(edges[:-1], shares, width=np.diff(edges), align="edge", color=colour(role), linewidth=0)
            middle = median(found[role])
            axes.axvline(middle, color=colour("ink"), linewidth=0.8, linestyle=(0, (2, 1.5)))
            side = "right" if middle > 0.6 * most else "left"
            axes.annotate(
                f"{ROLES[role]}: median {middle:.2f}",
                (middle, 1.0),
                (-4 if side == "right" else 4, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha=side,
                va="top",
                fontsize=8,
            )
            axes.set(xlim=(0, most), ylim=(0, 150), yticks=(0, 100))
        axes.set_xlabel("answer loss, nats a token")
        figure.supylabel("records, %", fontsize=8.5)
        said = ", ".join(f"{median(found[role]):.2f} {ROLES[role]}" for role in roles)
        text = f"Median loss of {_NAMES[kind]}: {said}."
        return panel(figure, f"losses-{kind}", _NAMES[kind], text)
