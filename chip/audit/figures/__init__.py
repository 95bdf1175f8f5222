"""The figures of a report, drawn from its plain values: SVG whose text is text, in the page's own colours."""

from collections.abc import Mapping
from typing import Any

from chip.audit.figures.curves import curves
from chip.audit.figures.histograms import histograms
from chip.audit.figures.ink import Drawn, Key, Panel
from chip.audit.figures.scatter import scatter
from chip.audit.figures.spectra import spectra
from chip.audit.figures.tree import tree
from chip.audit.figures.weights import weights

__all__ = ["Drawn", "Key", "Panel", "figures_of"]


def figures_of(report: Mapping[str, Any]) -> list[Drawn]:
    """Every figure, in the order in which a reader needs them; of one that would show nothing, why."""
    return [draw(report) for draw in (scatter, tree, curves, histograms, weights, spectra)]
