"""Choosing the strength of an edit: it is tried in memory and, where it misses its goals, others are tried."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from chip.duolearn.kept import identity, remove_training
from chip.errors import Diverged
from chip.measure import Answers, Group, Outcome, Part, halves, outcome, teacher_forced, wholes
from chip.models.prompts import Encoded
from chip.progress import Track, silent
from chip.settings import EditSettings, TuningSettings
from chip.solve.live import applied
from chip.solve.problem import Problem, Solved
from chip.tuning.schedule import Schedule
from chip.tuning.space import Space
from chip.tuning.trials import Trial, front, meets, rank
from chip.workflow.solvers import solve

_MOST_KEPT = 512
"""Encoded records that are kept from trial to trial, images and all; any more are encoded again."""

_DESTROYED = Outcome(target_match=0.0, target_loss=math.inf, retain_drop=1.0, retain_loss_rise=math.inf)
"""What the schedule is told of a training that diverged: nothing is left of the model."""


@dataclass(frozen=True)
class Tuning:
    """What choosing the strength came to: the goals, the settings that were free, the trials in their order (the first
    is the request itself), and which of them was chosen."""

    goals: TuningSettings
    searched: tuple[str, ...]
    trials: tuple[Trial, ...]
    chosen: int

    @property
    def halved(self) -> bool:
        """Whether something was chosen on the tuning half, so that only the judging half can judge it."""
        return len(self.trials) > 1

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in both objectives."""
        return front(self.trials)

    def as_json(self) -> dict[str, Any]:
        """The search as plain values; outcomes are those of the tuning half, `front` and `chosen` count from 0."""
        trials = [{"settings": one.settings.described(), "outcome": asdict(one.outcome)} for one in self.trials]
        return {
            "searched": self.searched,
            "trials": trials,
            "front": [self.trials.index(one) for one in self.front],
            "chosen": self.chosen,
        }


@dataclass(frozen=True)
class Verdict:
    """Whether the goals were met: on the judging half where the strength was chosen on the other, else on all that was
    asked."""

    goals: TuningSettings
    outcome: Outcome
    halved: bool

    @property
    def met(self) -> bool:
        """Whether both goals were met."""
        return meets(self.outcome, self.goals)

    def as_json(self) -> dict[str, Any]:
        """The verdict as plain values."""
        goals = {name: getattr(self.goals, name) for name in ("max_retain_drop", "max_target_match")}
        return {
            "met": self.met,
            "judged_on": "judging half" if self.halved else "everything asked",
            "goals": goals,
            "outcome": asdict(self.outcome),
        }


@dataclass(frozen=True)
class Tried:
    """A trial with its edit; `met`: whether it meets the goals, the request itself on everything, others on the
    tuning half."""

    trial: Trial
    solved: Solved
    met: bool


class Tuner:
    """Tries settings on the live model, whose weights are as before after each trial.

    before: the unedited model's answers to all groups.
    """

    def __init__(self, problem: Problem, groups: Sequence[Group], before: Answers, goals: TuningSettings) -> None:
        self._problem, self._before, self._goals = problem, before, goals
        self._groups, self.parts = wholes(groups), halves(groups, problem.settings.seed)
        self._tuning = [part for part in self.parts if part.role == "tuning"]
        kept = [(part.group.name, place) for part in self._tuning for place in part.places]
        self._kept = frozenset(kept[:_MOST_KEPT])
        self._encoded: dict[tuple[str, int], Encoded] = {}

    def first(self) -> Tried:
        """The request as it is. It was chosen on nothing, so it has to meet the goals on everything."""
        return self._try(self._problem, self._groups)

    def another(self, settings: EditSettings) -> Tried | None:
        """Other settings, on the tuning half alone; None, with a notice, where they let a training diverge."""
        trial = replace(self._problem, settings=settings, track=silent)
        kept = trial.course.kept
        if kept is not None:
            # In a file of its own: should this be interrupted, the request as it is is trained first again.
            kept = kept.with_name(f"{kept.name}-{identity(trial)[:12]}")
        try:
            tried = self._try(replace(trial, course=replace(trial.course, log=None, kept=kept)), self._tuning)
        except Diverged as diverged:
            trial.notice(f"other settings were tried, and {diverged}")
            return None
        if kept is not None:
            remove_training(kept)
        return tried

    def judge(self, solved: Solved, *, halved: bool) -> Verdict:
        """The verdict on an edit in memory, by teacher forcing."""
        parts = [part for part in self.parts if part.role == "judging"] if halved else self._groups
        return Verdict(self._goals, self._outcome(parts, self._ask(parts, solved)), halved)

    def _try(self, problem: Problem, parts: Sequence[Part]) -> Tried:
        solved = solve(problem)
        answers = self._ask(parts, solved)
        trial = Trial(problem.settings, self._outcome(self._tuning, answers))
        return Tried(trial, solved, meets(self._outcome(parts, answers), self._goals))

    def _outcome(self, parts: Sequence[Part], answers: Answers) -> Outcome:
        return outcome(parts, self._before, answers, lambda answer: answer.likeliest)

    def _ask(self, parts: Sequence[Part], solved: Solved) -> Answers:
        loaded = self._problem.loaded
        asked = [(part.group, place) for part in parts for place in part.places]
        encoded = [self._encode(group, place) for group, place in asked]
        with applied(loaded.model, solved.edit):
            answers = teacher_forced(loaded, encoded, batch_size=self._problem.settings.batch_size)
        return {(group.name, place): answer for (group, place), answer in zip(asked, answers, strict=True)}

    def _encode(self, group: Group, place: int) -> Encoded:
        """Records of the tuning half are asked in every trial, so their encodings are kept."""
        found = self._encoded.get((group.name, place))
        if found is None:
            found = self._problem.loaded.prompts.encode(group.records[place])
            if (group.name, place) in self._kept:
                self._encoded[group.name, place] = found
        return found


def choose_strength(tuner: Tuner, space: Space, goals: TuningSettings, track: Track = silent) -> tuple[Tuning, Solved]:
    """Try the request as it is and, where it misses a goal or a search was asked for, others; and choose.

    Unless it was asked for, a search ends with the first trial that meets the goals on the tuning half. A request that
    misses them on everything is not chosen for meeting them there.
    """
    first = tuner.first()
    chosen, solved, trials, met = 0, first.solved, [first.trial], first.met
    best = _key(first.trial, goals, barred=not met)
    del first  # An edit may be as large as the model: none is held that is not the best.
    if space.axes and (goals.tune or not met):
        schedule, tried = Schedule(space, goals), [(space.start, trials[0].outcome)]
        for _ in track(range(1, goals.trials), "trying other settings"):
            point = schedule.propose(tried)
            if point is None:
                break
            one = tuner.another(space.settings(point))
            if one is None:
                tried.append((point, _DESTROYED))
                continue
            tried.append((point, one.trial.outcome))
            trials.append(one.trial)
            key = _key(one.trial, goals)
            if key < best:
                best, chosen, solved = key, len(trials) - 1, one.solved
            if one.met and not goals.tune:
                break
    return Tuning(goals, tuple(axis.setting for axis in space.axes), tuple(trials), chosen), solved


def _key(trial: Trial, goals: TuningSettings, *, barred: bool = False) -> tuple[bool, tuple[float, ...]]:
    """What is barred comes behind all that meets the goals."""
    return barred or not meets(trial.outcome, goals), rank(trial.outcome, goals)


def judged(parts: Sequence[Part], before: Answers, after: Answers, goals: TuningSettings) -> Verdict:
    """The verdict on an edit that was written, by greedy generation, on all parts that nothing was chosen on."""
    halved = any(part.role for part in parts)
    fair = [part for part in parts if part.role != "tuning"]
    return Verdict(goals, outcome(fair, before, after, lambda answer: answer.exact), halved)
