"""A picture of a search: what each trial left of the target and cost the rest, the front, the goals and the choice."""

import importlib.util
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

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
        raise ChipError("--plot needs matplotlib, which is not installed: pip install 'chip-unlearning[report]'")
    refuse_foreign(path)


def plot_trials(trials: Sequence[Trial], chosen: Trial, goals: TuningSettings) -> bytes:
    """A PNG of the trials on the tuning half: target match against retain drop, both in percent of the records."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = [_place(one) for one in trials]
    goal_x, goal_y = 100 * goals.max_target_match, 100 * goals.max_retain_drop
    reach_x = 1.15 * max(*(x for x, _ in places), 2 * goal_x, 1.0)
    reach_y = 1.15 * max(*(y for _, y in places), 2 * goal_y, 1.0)
    low_x, low_y = -0.06 * reach_x, min(-0.06 * reach_y, 1.15 * min(y for _, y in places))
    axes.set(xlim=(low_x, reach_x), ylim=(low_y, reach_y))
    axes.fill_between([low_x, goal_x], low_y, goal_y, color=_GOAL, zorder=0)
    axes.text(goal_x, goal_y, " goals", color="#3f7d58", fontsize=9, va="bottom", ha="right")
    axes.scatter([x for x, _ in places], [y for _, y in places], color=_FAINT, s=26, label="tried", zorder=2)
    best = [_place(one) for one in front(trials)]
    axes.plot([x for x, _ in best], [y for _, y in best], color=_INK, lw=1, marker="o", ms=5, label="front", zorder=3)
    asked, choice = _place(trials[0]), _place(chosen)
    axes.scatter([asked[0]], [asked[1]], facecolors="none", edgecolors=_INK, s=110, label="as asked", zorder=4)
    axes.scatter([choice[0]], [choice[1]], color=_CHOSEN, s=60, label="chosen", zorder=5)
    axes.set(xlabel="target still answered, % of its records", ylabel="retained answers lost, % of their records")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=150, metadata={"Software": "chip-plot"})
    return stream.getvalue()


def _place(one: Trial) -> tuple[float, float]:
    return 100 * one.outcome.target_match, 100 * one.outcome.retain_drop
