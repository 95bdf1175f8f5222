"""A baseline as a phase of training: γ times a term on the target's records, α times one on retained ones, AdamW."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chip.duolearn.asking import Asked, Reference
from chip.duolearn.examples import Examples
from chip.duolearn.loop import Losses, Optimiser
from chip.duolearn.objectives import Objective, Term
from chip.duolearn.trainable import Trainable
from chip.models.loading import LoadedModel
from chip.models.prompts import Encoded
from chip.training_settings import TrainingSettings


class Descent:
    """Steps of AdamW on an objective."""

    name = "descent"

    def __init__(
        self,
        loaded: LoadedModel,
        examples: Examples,
        trainable: Trainable,
        objective: Objective,
        settings: TrainingSettings,
        rate: float,
        steps: int,
    ) -> None:
        self._loaded, self._examples, self._objective = loaded, examples, objective
        self._reference: Reference = trainable.before
        self._count = settings.step_records
        self._optimiser = Optimiser(trainable, rate, settings.weight_decay, steps)
        self.steps = steps

    def step(self, number: int) -> Losses:
        examples, objective = self._examples, self._objective
        asked = examples.dealt(examples.target, self._count, number, "target")
        forget = examples.refused(asked, number) if objective.refuses else examples.encoded(asked)
        forgotten = self._descend(objective.forget, forget, objective.forget_weight)
        retained = None
        if objective.retain is not None:
            # As many retained records a step as of the target, as open-unlearning pairs them.
            beside = examples.dealt(examples.retained, len(forget), number, "retained")
            retained = self._descend(objective.retain, examples.encoded(beside), objective.retain_weight)
        self._optimiser.step(number)
        return Losses(targeted=forgotten, retained=retained)

    def state(self) -> dict[str, Tensor]:
        return self._optimiser.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._optimiser.load(state)

    def _descend(self, term: Term, encoded: Sequence[Encoded], weight: float) -> float:
        return descend(term, self._examples.batches(encoded), weight, self._loaded, self._reference)


def descend(
    term: Term, batches: Sequence[Sequence[Encoded]], weight: float, loaded: LoadedModel, reference: Reference
) -> float:
    """Add `weight` times the gradient of a term over records to the parameters'; returns the term's value. How the
    records are divided among batches does not show."""
    total, count = 0.0, sum(map(term.count, batches))
    for batch in batches:
        with torch.enable_grad():
            value = term.values(Asked(loaded, batch, reference)).sum() / count
            (weight * value).backward()
        total += float(value.detach())
    return total
