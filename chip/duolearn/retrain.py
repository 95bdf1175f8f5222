"""Retraining without the target: the gold that every other method is compared with.

A recipe says how the model was trained. It is trained so again, from the same beginning, on what is retained alone; the
difference to the model as it is makes up the edit.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chip.duolearn.baseline import descend
from chip.duolearn.classes import entropy
from chip.duolearn.examples import Examples
from chip.duolearn.kept import TrainingLog
from chip.duolearn.loop import Losses, Watch, train
from chip.duolearn.objectives import Term
from chip.duolearn.trainable import Trainable, whole
from chip.errors import ChipError
from chip.files import read_small, without_repetition
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.solve.problem import Problem, Solved, as_edit

_WARM_UP = 0.03
_MUST_BE = {"initial": "a path", "learning_rate": "a number above 0", "weight_decay": "a number, not below 0"}
"""What a recipe's keys must be, but for whole numbers above 0."""


@dataclass(frozen=True)
class Recipe:
    """How a model was trained: AdamW from the checkpoint `initial`, so many epochs of the records in batches, its rate
    rising for a short while and then falling to nothing as a cosine does; `phrasings`: how many of each record's
    phrasings were taught, one after the other."""

    initial: str
    epochs: int
    learning_rate: float
    batch: int = 32
    weight_decay: float = 0.01
    phrasings: int = 1


def read_recipe(path: Path) -> Recipe:
    """A recipe from a JSON file; `initial` may be relative to it. Raises ChipError, naming the key, where it is no
    recipe."""
    content = read_config(path)
    known = {one.name: one for one in fields(Recipe)}
    if unknown := sorted(content.keys() - known.keys()):
        raise ChipError(f"{path}: no key is called {unknown[0]!r}; there are {', '.join(known)}")
    for name, value in content.items():
        if not _fits(name, value):
            raise ChipError(f"{path}: {name} must be {_MUST_BE.get(name, 'a whole number above 0')}")
    if missing := [name for name in ("initial", "epochs", "learning_rate") if name not in content]:
        raise ChipError(f"{path} does not say {missing[0]!r}; a recipe names initial, epochs and learning_rate")
    recipe = Recipe(**content)
    initial = path.parent / recipe.initial
    if not initial.is_dir():
        raise ChipError(
            f"{path}: initial names {initial}, which is no directory; give the checkpoint training began from"
        )
    return replace(recipe, initial=str(initial))


def _fits(name: str, value: Any) -> bool:
    if name == "initial":
        return isinstance(value, str)
    number = isinstance(value, int | float if name in _MUST_BE else int) and not isinstance(value, bool)
    return number and (0 < value < math.inf or (value == 0 and name == "weight_decay"))


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ChipError where there is none."""
    try:
        content = json.loads(read_small(path), object_pairs_hook=without_repetition)
    except OSError as problem:
        raise ChipError(f"--train-config {path} cannot be read: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise ChipError(f"--train-config {path} is not JSON ({problem})") from problem
    if not isinstance(content, dict):
        raise ChipError(f"--train-config {path} holds no JSON object")
    return content


def solve_by_recipe(problem: Problem, recipe: Recipe) -> Solved:
    """Train by a recipe on what is retained. Raises ChipError where `initial` is a model of another shape."""
    examples = Examples(problem)
    beginning = load_model(Checkpoint(Path(recipe.initial)), "cpu", "float32").model.state_dict()
    with whole(problem.loaded, problem.parameters) as trainable:
        for name, one in trainable.parameters.items():
            if name not in beginning or beginning[name].shape != one.shape:
                raise ChipError(f"{recipe.initial} has no {name} of the model's shape; it is not what it began from")
        trainable.load(beginning)
        del beginning
        phase = Learning(problem, examples, trainable, recipe)
        course = problem.course
        log = None if course.log is None else TrainingLog(course.log)
        went = train(trainable, [phase], Watch(None, None, log, course.keep_last_good, problem.track, problem.notice))
        made = trainable.made()
    return replace(as_edit(problem, made.changes, made.reports), training={**asdict(went), "planned": phase.steps})


class Learning:
    """Descent on the likelihood of retained answers."""

    name = "learning"

    def __init__(self, problem: Problem, examples: Examples, trainable: Trainable, recipe: Recipe) -> None:
        self._problem, self._examples, self._recipe = problem, examples, recipe
        self._reference = trainable.before
        self._adam = torch.optim.AdamW(
            trainable.tensors, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
        )
        self._parameters = trainable.tensors
        self._epoch = math.ceil(len(examples.retained) / recipe.batch)
        self.steps = recipe.epochs * self._epoch

    def step(self, number: int) -> Losses:
        # Each epoch teaches the next of a record's phrasings, so that all are taught alike.
        epoch, place = divmod(number, self._epoch)
        order = self._examples.dealt(self._examples.retained, len(self._examples.retained), epoch, "learning")
        positions = order[place * self._recipe.batch :][: self._recipe.batch]
        encoded = [self._problem.loaded.prompts.encode(self._phrased(position, epoch)) for position in positions]
        lost = descend(Term(entropy), self._examples.batches(encoded), 1.0, self._problem.loaded, self._reference)
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._adam.param_groups[0]["lr"] = self._recipe.learning_rate * self._share(number)
        self._adam.step()
        self._adam.zero_grad()
        return Losses(retained=lost)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Nothing is kept of a retraining."""

    def _phrased(self, position: int, epoch: int) -> Record:
        record = self._examples.record(position)
        phrasings = (record.question, *record.paraphrases)[: self._recipe.phrasings]
        return replace(record, question=phrasings[epoch % len(phrasings)])

    def _share(self, number: int) -> float:
        """Of the learning rate, at a step."""
        rising = max(int(_WARM_UP * self.steps), 1)
        falling = 0.5 * (1 + math.cos(math.pi * number / self.steps))
        return min((number + 1) / rising, 1.0) * falling
