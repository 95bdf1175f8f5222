"""Three ways to choose what `chip edit --tune` tries next, on the same requests, trials and time.

    python benchmarks/tune.py [--work DIR] [--trials 16]

Steps along the axes (`chip/tuning/schedule.py`, what chip does), a response surface fitted to all trials so far, and
optuna's tree-structured Parzen estimator; on the example hospital and on its sub-word sibling, a target of each level.
Writes `benchmarks/results/tune.md` and `.json`. Hospitals are kept under `--work`, as `benchmarks/variants.py` does.
"""

import itertools
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import optuna
import torch
import transformers
import typer
from chip.hospital import build_hospital
from variants import HOSPITALS, TARGETS

from chip.cli.options import quiet_libraries
from chip.measure import Outcome, audit_groups
from chip.settings import EditSettings, TuningSettings
from chip.tuning.schedule import Schedule
from chip.tuning.space import Point, Space
from chip.tuning.trials import excess, meets, rank
from chip.version import VERSION
from chip.workflow import EditRequest, prepare_edit
from chip.workflow.asking import ask
from chip.workflow.edit import problem_of
from chip.workflow.tune import Tuner, Verdict

GOALS = TuningSettings(tune=True)
RESULTS = Path(__file__).parent / "results"
_SURPRISED = 3.0


class Strategy(Protocol):
    """Says what to try next, given what was tried."""

    def propose(self, tried: Sequence[tuple[Point, Outcome]]) -> Point | None:
        """The next point, or None where nothing is left."""
        ...


class Surface:
    """A Gaussian process on the grid for target match, retain drop and both losses; one long step along each axis
    either way first, then always the untried point whose predicted outcome, taken optimistically, is best."""

    def __init__(self, space: Space) -> None:
        sizes = [len(axis.values) for axis in space.axes]
        self._grid = [tuple(point) for point in itertools.product(*map(range, sizes))]
        self._scale = np.array([max(size - 1, 1) for size in sizes])
        self._first = [space.start]
        for axis, size in enumerate(sizes):
            for step in (2, -2):
                moved = min(max(space.start[axis] + step, 0), size - 1)
                self._first.append((*space.start[:axis], moved, *space.start[axis + 1 :]))

    def propose(self, tried: Sequence[tuple[Point, Outcome]]) -> Point | None:
        """The next of the first points, then the most promising."""
        seen = {point for point, _ in tried}
        for point in self._first:
            if point not in seen:
                return point
        mean, spread = self._predicted(tried)
        match = np.clip(mean[:, 0] - spread[:, 0], 0, 1)
        drop = np.maximum(mean[:, 2] - spread[:, 2], 0)
        misses = np.hypot(
            np.maximum(match - GOALS.max_target_match, 0) / GOALS.max_target_match,
            np.maximum(drop - GOALS.max_retain_drop, 0) / GOALS.max_retain_drop,
        )
        score = misses + 0.2 * drop / GOALS.max_retain_drop + 0.1 * (match - mean[:, 1] + mean[:, 3])
        order = (self._grid[i] for i in np.argsort(score, kind="stable"))
        return next((point for point in order if point not in seen), None)

    def _predicted(self, tried: Sequence[tuple[Point, Outcome]]) -> tuple[np.ndarray, np.ndarray]:
        def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
            apart = ((one[:, None] - other[None]) / 0.5) ** 2
            return np.exp(-0.5 * apart.sum(-1)) + 2 * one @ other.T + 2

        points = np.array([point for point, _ in tried]) / self._scale
        grid = np.array(self._grid) / self._scale
        seen = np.array([_smooth(outcome) for _, outcome in tried])
        centre, width = seen.mean(0), seen.std(0) + 1e-6
        inverse = np.linalg.inv(kernel(points, points) + 0.05 * np.eye(len(points)))
        near = kernel(grid, points)
        left = 3 + 2 * (grid**2).sum(1) - ((near @ inverse) * near).sum(1)
        mean = near @ inverse @ ((seen - centre) / width) * width + centre
        return mean, np.sqrt(np.maximum(left, 1e-9))[:, None] * width


def _smooth(outcome: Outcome) -> list[float]:
    surprise, rise = min(max(outcome.target_loss, 0.01), _SURPRISED), max(outcome.retain_loss_rise, 1e-4)
    return [outcome.target_match, math.log(surprise), outcome.retain_drop, math.log(rise)]


class Parzen:
    """optuna's TPE over the indices of the same values, on one number: the distance from the goals, then the losses."""

    def __init__(self, space: Space) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=6, multivariate=True)
        self._space, self._study = space, optuna.create_study(sampler=sampler)
        self._study.enqueue_trial({axis.setting: axis.start for axis in space.axes})
        self._asked: optuna.Trial | None = None

    def propose(self, tried: Sequence[tuple[Point, Outcome]]) -> Point | None:
        """What the study asks for next that was not tried yet."""
        known = dict(tried)
        if self._asked is not None:
            self._study.tell(self._asked, _number(tried[-1][1]))
        for _ in range(20):
            asked = self._study.ask()
            axes = self._space.axes
            point = tuple(asked.suggest_int(axis.setting, 0, len(axis.values) - 1) for axis in axes)
            if point not in known:
                self._asked = asked
                return point
            self._study.tell(asked, _number(known[point]))
        return None


def _number(outcome: Outcome) -> float:
    surprise, rise = min(outcome.target_loss, _SURPRISED), outcome.retain_loss_rise
    if meets(outcome, GOALS):
        return -1 + 10 * max(outcome.retain_drop, 0) + outcome.target_match - 0.05 * surprise + rise
    return math.hypot(*excess(outcome, GOALS)) - 0.01 * surprise + 0.1 * rise


STRATEGIES: dict[str, Callable[[Space], Strategy]] = {
    "steps along the axes": lambda space: Schedule(space, GOALS),
    "response surface": Surface,
    "optuna, TPE": Parzen,
}


@dataclass(frozen=True)
class Found:
    """The best of one strategy's trials, by chip's own rule, with the trial that first met the goals (None: none), and
    the seconds that all trials took, what the strategy itself took among them."""

    hospital: str
    level: str
    strategy: str
    trials: int
    first_met: int | None
    tuning: Outcome
    judged: Outcome
    met: bool
    seconds: float
    own_seconds: float
    settings: dict[str, object]


class Bench:
    """One request, whose trials are kept: strategies that ask for the same settings share them, with their time."""

    def __init__(self, directory: Path, node: str) -> None:
        request = EditRequest(
            str(directory / "model"), directory / "records", (node,), EditSettings(method="oblique"), dry_run=True,
            tuning=GOALS, fixed=frozenset(), statistics=directory / "statistics.safetensors",
        )  # fmt: skip
        prepared = prepare_edit(request)
        groups = audit_groups(prepared.hierarchy, prepared.split, limit=request.verify_records)
        before = ask(prepared.loaded, groups, 16, lambda items, doing: items, "")
        self.tuner, self.space = Tuner(problem_of(prepared), groups, before, GOALS), prepared.space
        self.tuner.first()
        self._kept: dict[Point, tuple[Outcome, Verdict, float]] = {}

    def at(self, point: Point) -> tuple[Outcome, Verdict, float]:
        """What a point comes to on either half, and the seconds of a trial: the judging half is not counted."""
        if point not in self._kept:
            started = time.perf_counter()
            tried = self.tuner.another(self.space.settings(point))
            seconds = time.perf_counter() - started
            self._kept[point] = tried.trial.outcome, self.tuner.judge(tried.solved, halved=True), seconds
        return self._kept[point]


def main(
    work: Annotated[Path, typer.Option(help="Where hospitals are kept.")] = Path("build/benchmarks"),
    trials: Annotated[int, typer.Option(help="Trials that each strategy has.")] = 16,
) -> None:
    """Run the comparison and write its results."""
    quiet_libraries()
    found: list[Found] = []
    for name, plan in HOSPITALS.items():
        build_hospital(work / name, plan)
        for level, node in TARGETS.items():
            found += _compared(work / name, name, level, node, trials)
            _write(found, trials)


def _compared(directory: Path, hospital: str, level: str, node: str, trials: int) -> Iterator[Found]:
    bench = Bench(directory, node)
    for strategy, made in STRATEGIES.items():
        proposer, tried, own, whole = made(bench.space), list[tuple[Point, Outcome]](), 0.0, 0.0
        while len(tried) < trials:
            started = time.perf_counter()
            point = proposer.propose(tried)
            own += time.perf_counter() - started
            if point is None:
                break
            outcome, _, seconds = bench.at(point)
            tried.append((point, outcome))
            whole += seconds
        point, outcome = min(tried, key=lambda one: rank(one[1], GOALS))
        first = next((number for number, (_, one) in enumerate(tried, 1) if meets(one, GOALS)), None)
        verdict = bench.at(point)[1]
        settings = {axis.setting: axis.values[i] for axis, i in zip(bench.space.axes, point, strict=True)}
        yield Found(
            hospital,
            level,
            strategy,
            len(tried),
            first,
            outcome,
            verdict.outcome,
            verdict.met,
            whole + own,
            own,
            settings,
        )


def _write(found: Sequence[Found], trials: int) -> None:
    about = {
        "chip": VERSION,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "optuna": optuna.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "trials": trials,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tune.json").write_text(json.dumps({**about, "found": [asdict(one) for one in found]}, indent=1) + "\n")
    lines = [
        "# Choosing what to try next",
        "",
        f"`python benchmarks/tune.py`: the oblique projection, {trials} trials each. Target match [loss] / retain drop",
        "of the best trial, on the half it was chosen on and on the half that judges it; the trial that first met the",
        "goals (target match at most 0.05, retain drop at most 0.01); seconds of all trials, with what the strategy",
        "itself took.",
        "",
        ", ".join(f"{key} {value}" for key, value in about.items()),
    ]
    for hospital in dict.fromkeys(one.hospital for one in found):
        lines += ["", f"## {hospital}", "", "| level | strategy | tuning half | judging half | first met | seconds |"]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        lines += [_row(one) for one in found if one.hospital == hospital]
    (RESULTS / "tune.md").write_text("\n".join(lines) + "\n")


def _row(one: Found) -> str:
    halves = (f"{o.target_match:.2f} [{o.target_loss:.2f}] / {o.retain_drop:.3f}" for o in (one.tuning, one.judged))
    tuned, judged = halves
    met = " met" if one.met else ""
    seconds = f"{one.seconds:.0f} ({one.own_seconds:.1f})"
    return f"| {one.level} | {one.strategy} | {tuned} | {judged}{met} | {one.first_met or 'never'} | {seconds} |"


if __name__ == "__main__":
    typer.run(main)
