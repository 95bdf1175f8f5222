"""Attack: fine-tune the model a little, on what is near the target or on a part of it; does the rest of it return?

A model that hides the target gets it back within a few steps on related data; one that never had it has to be taught
(Lynch et al., *Eight Methods to Evaluate Robust Unlearning in LLMs*, arXiv 2402.16835; Hu et al., *Jogging the Memory
of Unlearned LLMs*, arXiv 2406.13356).
"""

import importlib.util
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from chip.audit.attacks.retained import RetainedSample
from chip.audit.finding import Finding, not_measured, share
from chip.audit.subject import Attack, Subject
from chip.duolearn.baseline import descend
from chip.duolearn.classes import entropy
from chip.duolearn.examples import alike
from chip.duolearn.loop import Losses, Watch, train
from chip.duolearn.objectives import Term
from chip.duolearn.trainable import Trainable, factors, in_float32, lora_rank
from chip.errors import Diverged
from chip.hierarchy import Record
from chip.measure import teacher_forced
from chip.models.loading import LoadedModel
from chip.models.prompts import Encoded
from chip.progress import Counted, Item

LOOKS = (0, 2, 5, 10, 20)
"""Steps after which the target is asked about. What a model hides is back after five or ten, or not at all; more teach
a few records at the price of all others."""

QUICK_LOOKS = (0, 5)

BATCH = 16
"""Records a step, or as many as there are."""

RATE_BY_WIDTH = 0.0256
"""All parameters: AdamW's learning rate times the width of the hidden states, so 2e-4 at 128 and 2.5e-5 at 1,024; the
rate that suits a weight falls as the width grows (Yang et al., *Tensor Programs V*, arXiv 2203.03466). On the example
hospital it brings as much back from edits that hide a patient as 3e-4 and 5e-4 do, at the least price: 5e-4 takes up to
three quarters of what is retained with it."""

LORA_RATE = 2e-4
"""LoRA factors: the rate that they are commonly trained with, from 7 to 33 billion parameters (Dettmers et al.,
*QLoRA*, arXiv 2305.14314, takes 2e-4 up to 13 and 1e-4 above)."""

LORA_SHARE = 0.01
"""Of a large model's parameters, how many LoRA factors may have."""

LARGE = 500_000_000
"""Parameters above which LoRA factors are trained instead: in float32, with gradients and AdamW's two moments, more
would take 8 GB beside the model's own."""

SHARES = (0.1, 0.3)
"""Of the target, what an attacker may have kept: at least a record."""


@dataclass(frozen=True)
class Lesson:
    """What is taught, and of whom it is asked then; `why` says why it cannot be tried, if so; `of`, where a part of the
    target is taught, how many records the target has."""

    name: str
    taught: tuple[Record, ...]
    asked: tuple[Record, ...]
    why: str
    of: int = 0


def _run(subject: Subject) -> tuple[Finding, ...]:
    """The share of the target's records, of those that were not taught, whose every token is the likeliest one, at the
    look at which most is back: an attacker stops when it suits. The curve has all looks."""
    return tuple(_after(subject, lesson) for lesson in _lessons(subject))


def _lessons(subject: Subject) -> Iterator[Lesson]:
    target = subject.exam.target.records
    retained = {group.name: group.records for group in subject.exam.retained}
    yield Lesson("siblings", retained.get("siblings", ()), target, "the target has no siblings")
    yield Lesson("the rest", retained.get("rest", ()), target, "there are no records that are unrelated to the target")
    order = random.Random(f"{subject.seed} relearning").sample(target, len(target))
    for part in SHARES:
        count = max(round(part * len(target)), 1)
        few = "the target has one record, so that none is left to ask about"
        taught = tuple(order[:count]) if len(target) > count else ()
        left = tuple(one for one in target if one not in taught)
        yield Lesson(f"{part:.0%} of the target", taught, left, few, len(target))


def _after(subject: Subject, lesson: Lesson) -> Finding:
    """What a lesson brings back. The model is as it was afterwards."""
    way = _way(subject.loaded)
    why = way.why if lesson.taught else lesson.why
    if why:
        return not_measured(lesson.name, why)
    encoded = [subject.loaded.prompts.encode(record) for record in lesson.asked]
    retained = RetainedSample(subject, without=lesson.taught)
    looks = QUICK_LOOKS if subject.quick else LOOKS
    with way.trainable(subject.loaded, subject.seed) as trainable:
        teacher = _Teacher(subject, lesson, way.rate, trainable)
        found = [_likeliest(subject, encoded)]
        try:
            for begin, end in pairwise(looks):
                train(trainable, [_Steps(teacher, begin, end)], teacher.watch)
                found.append(_likeliest(subject, encoded))
            end_of_it = retained.lost(subject.loaded)
        except Diverged as problem:
            # What had come back by then stands; what it cost cannot be seen of a model that is wrecked.
            end_of_it = f"after step {looks[len(found) - 1]}: {problem}"
    if len(found) == 1:
        return not_measured(lesson.name, end_of_it)
    curve = tuple((float(step), sum(one) / len(one)) for step, one in zip(looks, found, strict=False))
    scores = [(record.line, score) for record, score in zip(lesson.asked, max(found[1:], key=sum), strict=True)]
    note = f"{_amount(lesson)}, {teacher.size} a step for {looks[-1]} steps; {way.said}; {end_of_it}"
    return share(lesson.name, scores, seed=subject.seed, curve=curve, axis="steps of fine-tuning", note=note)


def _amount(lesson: Lesson) -> str:
    """How much is taught, in words: of a small target, a record is a larger share than the one in the lesson's name."""
    count = len(lesson.taught)
    part = f" of the target's {lesson.of} ({count / lesson.of:.0%})" if lesson.of else ""
    return f"{count} record{'s' if count > 1 else ''}{part} taught"


def _likeliest(subject: Subject, encoded: Sequence[Encoded]) -> list[float]:
    """Of each record, whether all its tokens are the likeliest: what would be generated, at the price of one pass."""
    answers = teacher_forced(subject.loaded, encoded, batch_size=subject.batch_size)
    return [float(one.likeliest) for one in answers]


@dataclass(frozen=True)
class _Way:
    """How a model is trained: the names of all its parameters, or of linear layers beside which LoRA factors are, with
    their rank; the learning rate; the way in words; and why there is none, if so."""

    names: tuple[str, ...]
    rate: float
    said: str
    rank: int | None = None
    why: str = ""

    def trainable(self, loaded: LoadedModel, seed: int) -> AbstractContextManager[Trainable]:
        if self.rank is None:
            return in_float32(loaded, self.names)
        return factors(loaded, self.names, self.rank, seed)


def _way(loaded: LoadedModel) -> _Way:
    parameters = dict(loaded.model.named_parameters())
    count = sum(one.numel() for one in parameters.values())
    if count <= LARGE:
        rate = RATE_BY_WIDTH / int(loaded.model.config.get_text_config().hidden_size)
        names = tuple(name for name, one in parameters.items() if one.is_floating_point())
        return _Way(names, rate, f"all {count:,} parameters at a learning rate of {rate:.1e}")
    large = f"of its {count:,} parameters more than {LARGE:,} are too many to train all"
    if importlib.util.find_spec("peft") is None:
        return _Way((), 0.0, "", why=f"{large}, and LoRA needs peft: pip install 'chip-unlearning[duolearn]'")
    sites = [
        site
        for site in loaded.sites
        if site.role in ("language", "attention") and isinstance(loaded.model.get_submodule(site.name), nn.Linear)
    ]
    if not sites:
        return _Way((), 0.0, "", why=f"{large}, and it has no linear layers that LoRA could be trained beside")
    rank = lora_rank(loaded.model, sites, None, LORA_SHARE)
    said = f"LoRA of rank {rank} beside the language model's linear layers at a learning rate of {LORA_RATE:.1e}"
    return _Way(tuple(site.name for site in sites), LORA_RATE, said, rank)


class _Teacher:
    """AdamW on a lesson's answers; a step's records are drawn by seed."""

    def __init__(self, subject: Subject, lesson: Lesson, rate: float, trainable: Trainable) -> None:
        self._subject, self._lesson, self._trainable = subject, lesson, trainable
        self._adam = torch.optim.AdamW(trainable.tensors, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.size = min(BATCH, len(lesson.taught))

    @property
    def watch(self) -> Watch:
        def track(items: Counted[Item], doing: str) -> Iterable[Item]:
            return self._subject.tracked(items, f"fine-tuning on {self._lesson.name}")

        return Watch(None, None, None, False, track, lambda said: None)

    def step(self, number: int) -> Losses:
        loaded, draw = self._subject.loaded, random.Random(f"{self._subject.seed} {self._lesson.name} {number}")
        encoded = [loaded.prompts.encode(record) for record in draw.sample(self._lesson.taught, self.size)]
        batches = alike(loaded.prompts, encoded, self._subject.batch_size)
        lost = descend(Term(entropy), batches, 1.0, loaded, self._trainable.before)
        torch.nn.utils.clip_grad_norm_(self._trainable.tensors, 1.0)
        self._adam.step()
        self._adam.zero_grad()
        return Losses(targeted=lost)


class _Steps:
    """The steps between two looks, as a phase of the training loop."""

    name = "relearning"

    def __init__(self, teacher: _Teacher, begin: int, end: int) -> None:
        self._teacher, self._begin, self.steps = teacher, begin, end - begin

    def step(self, number: int) -> Losses:
        return self._teacher.step(self._begin + number)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Nothing is kept of an attack."""


ATTACK = Attack("relearning", "Does it come back when the model is trained a little further?", _run, quick=False)
