"""Planting a data set in a model: training on its records' answers, after the benchmark authors' recipe.

LoRA factors beside every linear layer of the language model (Hu et al., arXiv 2106.09685), or all parameters as they
are; AdamW, a learning rate that falls to nothing in a straight line, gradients clipped at a norm of 1. Every draw, of
records and of what dropout drops, depends on the seed and the step's number alone, so that an interruption does not
show; nor, beyond rounding, how many processes share the work.
"""

import hashlib
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from chip.collect.team import Team
from chip.duolearn.baseline import descend
from chip.duolearn.classes import entropy
from chip.duolearn.examples import alike
from chip.duolearn.loop import Course, Losses, Optimiser, Watch, train
from chip.duolearn.objectives import Term
from chip.duolearn.trainable import LowRank, Made, Trained, lora_parameters, lora_rank, low_rank, whole
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.medforget.finetune_settings import FinetuneSettings
from chip.models.loading import LoadedModel
from chip.models.matrix import Matrix
from chip.models.sites import Site, StoredSite

DECAY = 0.01
"""AdamW's weight decay, torch's own default."""

LONGEST_GRADIENT = 1.0

LARGE = 500_000_000
"""Parameters above which LoRA keeps no activations by default, but computes them again on the way back."""


@dataclass(frozen=True)
class Ground:
    """What is trained of a model: linear layers that LoRA factors stand beside, or else parameters as they are, each
    with what is stored of it. count: how many numbers are trained."""

    sites: tuple[StoredSite, ...]
    parameters: Mapping[str, Matrix]
    count: int


@dataclass(frozen=True)
class Planted:
    """What a training made: the changes with a report on each, and how it went."""

    made: Made
    course: Course


def lora_layers(loaded: LoadedModel, settings: FinetuneSettings) -> tuple[Site, ...]:
    """The linear layers beside which factors stand: all in the language model's layers and, if so set, the projector's.

    Raises ChipError where there are none, where the projector has what is no linear layer, and where the rank is more
    than one of them can have.
    """
    stem = f"{loaded.family.layers}."
    found = [
        Site(name, "language", int(name.removeprefix(stem).partition(".")[0]), name.rpartition(".")[2])
        for name, module in loaded.model.named_modules()
        if name.startswith(stem) and isinstance(module, nn.Linear)
    ]
    if not found:
        raise ChipError("the language model has no linear layers that LoRA could be trained beside; use --train full")
    projector = [site for site in loaded.sites if site.role == "projector"] if settings.projector else []
    if settings.projector and not projector:
        raise ChipError("--projector: the model has no projector that chip knows; leave it out")
    for site in projector:
        if site.transposed:
            raise ChipError(
                f"--projector: {site.name} is a bare parameter, no linear layer that LoRA could be trained beside; "
                "leave it out, or use --train full"
            )
    sites = (*projector, *found)
    lora_rank(loaded.model, sites, settings.lora_rank, 0.0)
    return sites


def whole_parameters(loaded: LoadedModel) -> tuple[str, ...]:
    """The names of all parameters that can be trained as they are."""
    return tuple(name for name, one in loaded.model.named_parameters() if one.is_floating_point())


def trained_count(loaded: LoadedModel, settings: FinetuneSettings) -> int:
    """How many numbers are trained."""
    if settings.train == "lora":
        return lora_parameters(loaded.model, lora_layers(loaded, settings), settings.lora_rank)
    return sum(loaded.model.get_parameter(name).numel() for name in whole_parameters(loaded))


def recomputes(loaded: LoadedModel, settings: FinetuneSettings) -> bool:
    """Whether activations are computed again on the way back: as set, or with LoRA in a large model."""
    if settings.checkpointing is not None:
        return settings.checkpointing
    return settings.train == "lora" and sum(one.numel() for one in loaded.model.parameters()) > LARGE


def plant(
    loaded: LoadedModel,
    ground: Ground,
    records: Sequence[Record],
    settings: FinetuneSettings,
    watch: Watch,
    team: Team | None = None,
) -> Planted:
    """Train on the records' answers; afterwards the model is as it was, and the changes are what came of it.

    team: the processes that share each step's records, all of which end with the same changes. Raises Diverged, and
    ChipError where memory runs out or nothing has moved.
    """
    with _trainable(loaded, ground, settings) as trainable:
        phase = _Planting(loaded, records, trainable, settings, team or Team())
        with _recomputing(loaded, recomputes(loaded, settings)):
            course = train(trainable, [phase], watch)
        made = trainable.made()
    if not made.changes:
        raise ChipError("the training has moved no parameter; give it more --epochs or a larger --learning-rate")
    return Planted(made, course)


def _trainable(loaded: LoadedModel, ground: Ground, settings: FinetuneSettings) -> AbstractContextManager[Trained]:
    if settings.train == "full":
        return whole(loaded, ground.parameters)
    shape = LowRank(settings.lora_rank, settings.lora_alpha, settings.lora_dropout, gaussian=True)
    return low_rank(loaded, ground.sites, shape, settings.seed)


class Lessons:
    """What each step teaches: all records once an epoch, in an order drawn anew each time, and each epoch in the next
    of their wordings, so that all wordings are taught alike."""

    def __init__(self, records: Sequence[Record], settings: FinetuneSettings) -> None:
        self._records, self._settings = tuple(records), settings
        self._epoch_steps = settings.epoch_steps(len(records))

    def of_step(self, number: int) -> list[Record]:
        """The records of a step, counted from 0, as they are asked there."""
        epoch, place = divmod(number, self._epoch_steps)
        order = random.Random(f"{self._settings.seed} planting {epoch}").sample(self._records, len(self._records))
        size = self._settings.step_records
        return [worded(record, epoch, self._settings.wordings) for record in order[place * size : (place + 1) * size]]


def worded(record: Record, epoch: int, most: int | None) -> Record:
    """A record in the wording of an epoch, of its own and at most so many paraphrases in turn."""
    wordings = (record.question, *record.paraphrases)[:most]
    return replace(record, question=wordings[epoch % len(wordings)])


class _Planting:
    """Descent on the likelihood of answers: each step on its records, some at once, shared among processes."""

    name = "planting"

    def __init__(
        self,
        loaded: LoadedModel,
        records: Sequence[Record],
        trainable: Trained,
        settings: FinetuneSettings,
        team: Team,
    ) -> None:
        self._loaded, self._trainable, self._settings, self._team = loaded, trainable, settings, team
        self._lessons, self._term = Lessons(records, settings), Term(entropy)
        self._dropping = [one for name, one in loaded.model.named_modules() if name.endswith(".lora_dropout.default")]
        self.steps = settings.steps(len(records))
        self._optimiser = Optimiser(trainable, settings.learning_rate, DECAY, self.steps, rises=False)

    def step(self, number: int) -> Losses:
        encoded = self._loaded.prompts.encode_all(self._lessons.of_step(number))
        batches = alike(self._loaded.prompts, encoded, self._settings.batch_size)
        total = self._term.count(encoded)
        lost = torch.zeros((), dtype=torch.float64)
        for place, batch in self._team.share(list(enumerate(batches))):
            share = self._term.count(batch) / total
            with self._drawing(f"{self._settings.seed} dropping {number} {place}"):
                lost += share * descend(self._term, [batch], share, self._loaded, self._trainable.before)
        self._gather(lost)
        torch.nn.utils.clip_grad_norm_(self._trainable.tensors, LONGEST_GRADIENT)
        self._optimiser.step(number)
        return Losses(retained=float(lost))

    def state(self) -> dict[str, Tensor]:
        return self._optimiser.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._optimiser.load(state)

    @contextmanager
    def _drawing(self, what: str) -> Iterator[None]:
        """LoRA's dropout drops something, drawn by what is named; nothing else in the model does."""
        seeded = [self._loaded.device] if self._loaded.device.type == "cuda" else []
        with torch.random.fork_rng(devices=seeded):
            torch.manual_seed(int.from_bytes(hashlib.sha256(what.encode()).digest()[:8]))
            for layer in self._dropping:
                layer.train()
            try:
                yield
            finally:
                for layer in self._dropping:
                    layer.eval()

    def _gather(self, lost: Tensor) -> None:
        """Have in every process the gradients and the loss of all records of the step."""
        if self._team.size > 1:
            for one in self._trainable.tensors:
                one.grad = torch.zeros_like(one) if one.grad is None else one.grad
            self._team.total(*(one.grad for one in self._trainable.tensors if one.grad is not None))
            there = lost.to(self._loaded.device, torch.float32)
            self._team.total(there)
            lost.copy_(there)


@contextmanager
def _recomputing(loaded: LoadedModel, wanted: bool) -> Iterator[None]:
    """Where wanted, activations within the language model's layers are not kept, by transformers' own means, which take
    effect in layers that are set to training; what these hold stays as it is, so that nothing more is dropped."""
    if not wanted:
        yield
        return
    layers = [
        module
        for name, module in loaded.model.named_modules()
        if name.startswith(f"{loaded.family.layers}.") and isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise ChipError("transformers cannot compute this model's activations again: give --no-gradient-checkpointing")
    with warnings.catch_warnings():
        # Of names that transformers from 5.0 on knows; what it calls them now is not known to all of those.
        warnings.filterwarnings("ignore", "`gradient_checkpointing_.*` is deprecated", FutureWarning)
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
        try:
            for layer in layers:
                layer.training = True
            yield
        finally:
            for layer in layers:
                layer.training = False
            loaded.model.gradient_checkpointing_disable()
