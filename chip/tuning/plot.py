"""A picture of a search: what each trial left of the target and cost the rest, the front, the goals and the choice."""

import importlib.util
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from chip.errors import ChipError, UsageError
from chip.files import refuse_foreign
from chip.settings import TuningSettings
from chip.tuning.trials import Trial, front

_INK, _FAINT, _CHOSEN, _GOAL = "#1f2933", "#9aa5b1", "#c2410c", "#e6f4ea"


def refuse_plot(path: Path) -> None:
    """Raise ChipError, before anything is worked out, where no picture could be drawn to `path` in the end."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {path} is no PNG file; give it a name that ends in .png")
    if importlib.util.find_spec("matplotlib") is None:
        raise ChipError("--plot needs matplotlib, which is not installed: pip install 'chip-unlearning[audit]'")
    refuse_foreign(path)


def plot_trials(trials: Sequence[Trial], chosen: Trial, goals: TuningSettings) -> bytes:
    """A PNG of the trials on the tuning half: right answers in percent of the records, and, since many trials are
    alike in these, how far the losses moved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    matches, losses = figure.subplots(1, 2)
    goal_x, goal_y = 100 * goals.max_target_match, 100 * goals.max_retain_drop
    _draw(matches, trials, chosen, lambda one: (100 * one.outcome.target_match, 100 * one.outcome.retain_drop))
    matches.set(xlabel="target still answered, % of its records", ylabel="retained answers lost, % of their records")
    matches.set(xlim=_reaching(matches.get_xlim(), goal_x), ylim=_reaching(matches.get_ylim(), goal_y))
    (low_x, _), (low_y, _) = matches.get_xlim(), matches.get_ylim()
    matches.fill_between([low_x, goal_x], low_y, goal_y, color=_GOAL, zorder=0, label="goals")
    _draw(losses, trials, chosen, lambda one: (one.outcome.target_loss, one.outcome.retain_loss_rise))
    losses.set(
        xlabel="surprise at the target's answers, nats a token", ylabel="rise of the retained answers' loss, nats"
    )
    matches.legend(frameon=False, fontsize=9, loc="upper right")
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": "chip-plot"})
    return stream.getvalue()


def _draw(axes: Any, trials: Sequence[Trial], chosen: Trial, place: Callable[[Trial], tuple[float, float]]) -> None:
    """One panel: trials, the front, the request as it was asked, the choice."""
    best = front(trials)
    kinds = (
        (trials, {"color": _FAINT, "s": 26, "label": "tried"}),
        (best, {"color": _INK, "s": 30, "label": "front"}),
        (trials[:1], {"facecolors": "none", "edgecolors": _INK, "s": 120, "label": "as asked"}),
        ((chosen,), {"color": _CHOSEN, "s": 60, "label": "chosen"}),
    )
    for height, (some, look) in enumerate(kinds):
        places = [place(one) for one in some]
        axes.scatter([x for x, _ in places], [y for _, y in places], zorder=2 + height, **look)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _reaching(limits: tuple[float, float], goal: float) -> tuple[float, float]:
    """Limits of an axis that show the goal with some room beyond it."""
    high = max(limits[1], 1.6 * goal)
    return min(limits[0], -0.05 * high), high
