"""Where the edit changed the model: of every weight, how large the change is beside the weight itself."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from chip.audit.figures.ink import WIDTH, Drawn, Key, Panel, canvas, cut, heat, on_heat, panel
from chip.readable import readable

_TITLE = "Where the weights changed"
_UNCHANGED = "No weight differs between the two models."
_LAYERED = re.compile(r"(?P<stem>.*\b(?:layers?|blocks?|h|resblocks))\.(?P<layer>\d+)\.(?P<kind>.+?)(?:\.weight)?")
_ROWS = 60
_COLUMNS = 12

Place = tuple[str, int, str]


def placed(tensor: str) -> Place | None:
    """The stack of layers that a tensor belongs to, its layer's number and its name there; numbers within that name
    (a mixture's experts) are one `*`. None of a tensor that is in no layer."""
    found = _LAYERED.fullmatch(tensor)
    if found is None:
        return None
    return found["stem"], int(found["layer"]), re.sub(r"(?<=\.)\d+(?=\.|$)", "*", found["kind"])


def weights(report: Mapping[str, Any]) -> Drawn:
    """‖Δ‖ ÷ ‖W‖ by layer and kind of linear, a picture for each stack of layers; what is in none is in the table."""
    changes = report["changes"]
    if not changes:
        return Drawn("weights", _TITLE, _UNCHANGED)
    stacks: dict[str, dict[tuple[int, str], float]] = {}
    for one in changes:
        place = placed(one["tensor"])
        if place is not None:
            stack = stacks.setdefault(place[0], {})
            stack[place[1:]] = max(one["relative"], stack.get(place[1:], 0.0))
    most = max(one["relative"] for one in changes)
    panels = tuple(_drawn(number, stem, stack, most) for number, (stem, stack) in enumerate(stacks.items()))
    order = sorted(changes, key=lambda one: -one["relative"])
    rows = tuple(
        (readable(one["tensor"]), f"{one['relative']:.2%}", f"{one['spectrum'][0]:.2%}" if one["spectrum"] else "–")
        for one in order[:_ROWS]
    )
    least, largest = order[-1], order[0]
    note = (
        f"{len(changes)} tensors changed, by between {least['relative']:.2%} ({least['tensor']}) and "
        f"{largest['relative']:.2%} ({largest['tensor']}) of their own size (Frobenius norms)."
    )
    odd = sum(placed(one["tensor"]) is None for one in changes)
    if odd:
        note += f" {odd} of them stand in no layer: only the table below names them."
    if len(changes) > _ROWS:
        note += f" The table names the {_ROWS} that changed most."
    if any("*" in kind for stack in stacks.values() for _, kind in stack):
        note += " Where a layer has several weights of one kind, * stands for them and the largest change is shown."
    columns = ("tensor", "change ÷ weight", "largest direction ÷ weight")
    keys = (Key("low", "unchanged"), Key("high", f"{most:.1%} of the weight")) if panels else ()
    return Drawn("weights", _TITLE, readable(note), panels, keys, columns, rows)


def _drawn(number: int, stem: str, stack: Mapping[tuple[int, str], float], most: float) -> Panel:
    layers = sorted({layer for layer, _ in stack})
    kinds = sorted({kind for _, kind in stack})
    shown = sorted(kinds, key=lambda kind: -max(stack.get((layer, kind), 0.0) for layer in layers))[:_COLUMNS]
    kinds = [kind for kind in kinds if kind in shown]
    row = min(0.24, max(6.2 / len(layers), 0.06))
    with canvas(row * len(layers) + 1.25, WIDTH) as figure:
        from matplotlib.patches import Rectangle

        axes = figure.subplots()
        axes.set(xlim=(0, len(kinds)), ylim=(len(layers), 0), ylabel="layer")
        for (layer, kind), value in stack.items():
            if kind in kinds:
                x, y, share = kinds.index(kind), layers.index(layer), value / most if most else 0.0
                axes.add_patch(Rectangle((x + 0.02, y + 0.04), 0.96, 0.92, facecolor=heat(share), linewidth=0))
                if row >= 0.16 and len(kinds) <= 6:
                    axes.text(
                        x + 0.5, y + 0.52, f"{value:.2%}", color=on_heat(share), fontsize=7.5, ha="center", va="center"
                    )
        every = max(1, round(0.16 / row))
        axes.set_yticks([place + 0.5 for place in range(0, len(layers), every)], map(str, layers[::every]))
        slant: dict[str, Any] = {
            "rotation": 0 if len(kinds) <= 2 else 40,
            "ha": "center" if len(kinds) <= 2 else "right",
        }
        axes.set_xticks([place + 0.5 for place in range(len(kinds))], [cut(kind, 24) for kind in kinds], **slant)
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return panel(figure, f"weights-{number}", stem, _said(stack, kinds))


def _said(stack: Mapping[tuple[int, str], float], kinds: Sequence[str]) -> str:
    said = []
    for kind in kinds:
        found = {layer: value for (layer, name), value in stack.items() if name == kind}
        top = max(found, key=lambda layer: found[layer])
        said.append(f"{kind} most in layer {top}, {found[top]:.2%}, mean of {len(found)} {_mean(found):.2%}")
    return readable(f"Change ÷ weight: {'; '.join(said)}.")


def _mean(found: Mapping[int, float]) -> float:
    return sum(found.values()) / len(found)
