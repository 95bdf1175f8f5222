"""In how many directions the weights changed: the singular values of every change, falling."""

from collections.abc import Mapping, Sequence
from typing import Any

from chip.audit.figures.ink import Drawn, Panel, canvas, heat, panel
from chip.audit.figures.weights import placed
from chip.readable import readable

_TITLE = "The directions of the changes"
_PANELS = 6
_SEEN = 1e-6
"""Singular values below this share of the largest are rounding, and not drawn."""


def spectra(report: Mapping[str, Any]) -> Drawn:
    """Singular values of Δ ÷ ‖W‖ by their order, a picture for each kind of weight and a line for each layer."""
    kinds: dict[str, list[tuple[int, Sequence[float]]]] = {}
    for one in report["changes"]:
        place = placed(one["tensor"])
        values = [value for value in one["spectrum"] if value > _SEEN * one["spectrum"][0]]
        if values:
            name, layer = (f"{place[0]}.*.{place[2]}", place[1]) if place else (one["tensor"], 0)
            kinds.setdefault(name, []).append((layer, values))
    if not kinds:
        why = "No matrix changed" if report["changes"] else "No weight differs between the two models"
        return Drawn("spectra", _TITLE, f"{why}, so that there are no directions.")
    order = sorted(kinds, key=lambda name: (-max(values[0] for _, values in kinds[name]), name))
    panels = tuple(_drawn(number, name, kinds[name]) for number, name in enumerate(order[:_PANELS]))
    note = (
        "A steep fall says that few directions carry the change. Each line is a layer, the deeper its colour the later "
        "the layer."
    )
    if len(order) > _PANELS:
        note += f" {len(order) - _PANELS} further kinds, whose changes are smaller, are not drawn."
    return Drawn("spectra", _TITLE, readable(note), panels)


def _said(lines: Sequence[tuple[int, Sequence[float]]]) -> str:
    first = [values[0] for _, values in lines]
    half = sorted(_half(values) for _, values in lines)
    count = f"{half[0]} to {half[-1]} directions" if half[0] != half[-1] else f"{half[0]} of the directions"
    largest = f"{min(first):.2%} to {max(first):.2%}" if min(first) != max(first) else f"{first[0]:.2%}"
    return f"The largest direction is {largest} of the weight; half of a change lies in {count}."


def _half(values: Sequence[float]) -> int:
    """How many of the largest singular values hold half of the sum of squares."""
    total, held = sum(value**2 for value in values), 0.0
    for count, value in enumerate(values, 1):
        held += value**2
        if held >= total / 2:
            return count
    return len(values)


def _drawn(number: int, name: str, lines: Sequence[tuple[int, Sequence[float]]]) -> Panel:
    from matplotlib.ticker import LogLocator, NullLocator

    last = max(layer for layer, _ in lines)
    with canvas(2.3) as figure:
        axes = figure.subplots()
        for layer, values in sorted(lines, key=lambda line: line[0]):
            share = 0.35 + 0.65 * layer / last if last else 1.0
            marker = "." if len(values) <= 2 else ""
            axes.plot(range(1, len(values) + 1), values, color=heat(share), linewidth=1.2, marker=marker)
        axes.set_yscale("log")
        values = [value for _, some in lines for value in some]
        narrow = max(values) < 100 * min(values)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="direction, largest first", ylabel="singular value ÷ ‖W‖")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.grid(True)
        return panel(figure, f"spectrum-{number}", name, _said(lines))
