"""The training loop that every method shares: steps, a watch on divergence, early stop, progress that is kept, a log.

A method is a list of phases; each takes its steps in turn on the same parameters. Every draw depends on the step's
number and a seed alone, so that a training which was interrupted ends in the same bytes as one which was not.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from chip.collect.fitting import Notice, ran_out_of_memory
from chip.duolearn.kept import KeptTraining, TrainingLog, Where
from chip.duolearn.trainable import Trainable
from chip.errors import ChipError, Diverged
from chip.progress import Track

_EXPLODED = 1e5
"""A loss above this, in nats, has exploded: no answer's tokens are this unlikely."""

_LOOK_EVERY = 10
"""Steps between two looks: at the goals, and whether the parameters are finite, which makes them the last good state.
Progress is kept there alone, so that a training that goes on knows the same good states as one that never stopped."""

_LOOKS = 2
"""Looks in a row that must find the goals met before a training ends early: one may be luck."""


@dataclass(frozen=True)
class Losses:
    """What a step measured: on the target's tokens that are to be unlearned, on those that are to be preserved, and on
    retained records. Nats a token but where an objective is of another kind."""

    targeted: float | None = None
    preserved: float | None = None
    retained: float | None = None

    @property
    def bad(self) -> str:
        """What is wrong with them, in words; empty where nothing is."""
        for value in (self.targeted, self.preserved, self.retained):
            if value is not None and not math.isfinite(value):
                return "a loss is not a number any more"
            if value is not None and abs(value) > _EXPLODED:
                return f"a loss has grown to {value:.0f} nats"
        return ""


class Phase(Protocol):
    """Some steps of a training. `state` and `load` carry over what it remembers from step to step."""

    name: str
    steps: int

    def step(self, number: int) -> Losses: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Watch:
    """How a training is watched: `met` says whether the goals are, and is None where nobody asks before the end; `kept`
    and `log` may be None; `last_good`: end with the last good state where it diverges. private: losses decide nothing,
    since they tell of records what noise hides in the parameters. smaller: what to give where memory runs out."""

    met: Callable[[], bool] | None
    kept: KeptTraining | None
    log: TrainingLog | None
    last_good: bool
    track: Track
    notice: Notice
    private: bool = False
    smaller: str = "a smaller --batch-size, which changes nothing else, or fewer --step-records"


@dataclass(frozen=True)
class Course:
    """How a training went: the steps that made the parameters what they are, and why it ended before its time where it
    diverged."""

    steps: int
    diverged: str = ""


def train(trainable: Trainable, phases: Sequence[Phase], watch: Watch) -> Course:
    """Take the phases' steps; the parameters are left as the last one made them.

    Raises Diverged where a loss is no number or has exploded, unless `last_good` and there is such a state; then, and
    where the progress of such a training is taken up, the parameters are left as they were at the last look.
    """
    run = _Run(trainable, phases, watch)
    total = sum(phase.steps for phase in phases)
    begun = run.resume()
    try:
        for number in watch.track(range(begun, total), "training"):
            if run.ended or not run.step(number):
                break
    except RuntimeError as problem:
        if not ran_out_of_memory(problem):
            raise
        raise ChipError(f"memory ran out in training; give {watch.smaller}") from problem
    finally:
        run.close()
    return Course(run.taken, run.diverged)


class _Run:
    """Where a training is."""

    def __init__(self, trainable: Trainable, phases: Sequence[Phase], watch: Watch) -> None:
        self._trainable, self._phases, self._watch = trainable, phases, watch
        self._good, self._good_at = trainable.state(), 0
        self._looks = 0
        self._seconds = 0.0
        self._since = time.monotonic()
        self.taken, self.ended, self.diverged = 0, False, ""

    def resume(self) -> int:
        """Go on where the same training left off; the number of the next step."""
        watch = self._watch
        found = None if watch.kept is None else watch.kept.read(watch.notice)
        if found is None:
            return 0
        where = found.where
        self._trainable.load(found.parameters)
        self._good, self._good_at = found.parameters, where.step
        self.taken, self._looks, self._seconds, self.ended = where.step, where.looks, where.seconds, where.ended
        if watch.log is not None:
            watch.log.begin(where.lines)
        if where.diverged:
            self._give_up(where.diverged)
            return where.step
        for phase in self._phases:
            if phase.name == where.phase:
                phase.load(found.memory)
        watch.notice(f"the training goes on after step {where.step}, where it was interrupted")
        return where.step

    def step(self, number: int) -> bool:
        """Take a step; whether another one is to follow."""
        phase, place = self._phase_of(number)
        try:
            losses = phase.step(place)
            bad = "" if self._watch.private else losses.bad
        except Diverged as diverged:
            bad = str(diverged)
        if bad:
            self._give_up(f"{bad} at step {number + 1}")
            return False
        self.taken = number + 1
        if self._watch.log is not None:
            self._watch.log.line(number + 1, phase.name, losses, self._elapsed)
        last = self.taken == sum(one.steps for one in self._phases)
        if self.taken % _LOOK_EVERY == 0 or last:
            if not self._trainable.finite():
                self._give_up(f"a parameter is not a number any more at step {self.taken}")
                return False
            self._good, self._good_at = self._trainable.state(), self.taken
            self.ended = self._enough()
            if self._watch.kept is not None and self._watch.kept.due:
                self._keep(phase)
        return not self.ended

    def close(self) -> None:
        """What is left to do once no step is to follow."""
        if self._watch.log is not None:
            self._watch.log.write()

    @property
    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._since

    def _phase_of(self, number: int) -> tuple[Phase, int]:
        for phase in self._phases:
            if number < phase.steps:
                return phase, number
            number -= phase.steps
        raise AssertionError("a step beyond the last phase")

    def _enough(self) -> bool:
        """Whether the goals have been met at looks enough in a row."""
        if self._watch.met is None:
            return False
        self._looks = self._looks + 1 if self._watch.met() else 0
        return self._looks >= _LOOKS

    def _keep(self, phase: Phase, *, diverged: str = "") -> None:
        kept = self._watch.kept
        assert kept is not None
        lines = () if self._watch.log is None else self._watch.log.lines
        where = Where(phase.name, self.taken, self._looks, self._elapsed, self.ended, diverged, lines)
        kept.write(where, self._good if diverged else self._trainable.state(), {} if diverged else phase.state())

    def _give_up(self, why: str) -> None:
        """End with the last good state, or with an error that says where that is kept."""
        watch = self._watch
        self._trainable.load(self._good)
        self.taken, self.ended, self.diverged = self._good_at, True, why
        if not self._good_at:
            raise Diverged(f"the training has diverged: {why}; use a smaller learning rate")
        if watch.last_good:
            watch.notice(f"the training has diverged ({why}): it ends with the state of step {self._good_at}")
            return
        where = ""
        if watch.kept is not None:
            self._keep(self._phase_of(self._good_at - 1)[0], diverged=why)
            where = f"; the state of step {self._good_at} is kept, and --keep-last-good ends with it"
        raise Diverged(f"the training has diverged: {why}; use a smaller learning rate or fewer steps{where}")


class Optimiser:
    """AdamW over the parameters, its learning rate rising over the first tenth of the steps and then falling to
    nothing, as open-unlearning's published configuration has it; or falling from the first step on. Its memory can be
    kept."""

    def __init__(self, trainable: Trainable, rate: float, decay: float, steps: int, *, rises: bool = True) -> None:
        self._trainable, self._rate, self._steps = trainable, rate, steps
        self._rising = max(math.ceil(steps / 10), 1) if rises else 0
        self._adam = torch.optim.AdamW(trainable.tensors, lr=rate, weight_decay=decay)

    def step(self, number: int) -> None:
        """Take the parameters' gradients as they stand, and clear them."""
        risen = (number + 1) / max(self._rising, 1)
        left = (self._steps - number) / max(self._steps - self._rising, 1)
        for group in self._adam.param_groups:
            group["lr"] = self._rate * min(risen, left, 1.0)
        self._adam.step()
        self._adam.zero_grad()

    def state(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, one in self._trainable.parameters.items():
            for key, value in self._adam.state.get(one, {}).items():
                found[f"{name}/{key}"] = torch.as_tensor(value).detach().to("cpu", copy=True)
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, one in self._trainable.parameters.items():
            held: dict[str, Any] = {}
            for key, value in state.items():
                owner, _, part = key.rpartition("/")
                if owner == name:
                    held[part] = value.clone() if part == "step" else value.to(one.device, copy=True)
            if held:
                self._adam.state[one] = held
