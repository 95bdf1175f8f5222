"""What a user may set about methods that train, with its defaults and limits in one place. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Any

from chip.errors import UsageError

BASELINES = ("ga", "graddiff", "kl", "npo", "simnpo", "rmu", "idk")
"""Objectives that unlearning is usually compared with, as their papers define them (chip/duolearn/objectives.py)."""

TRAINED = ("duolearn", *BASELINES, "retrain")
"""The methods that train."""

WAYS = ("full", "lora")
_LOW_RANK = {"lora_rank", "lora_share", "lora_targets", "layers"}
_OPTIMISED = {"train", "steps", "learning_rate", "step_records", "weight_decay", "forget_weight", "seed"}
_RETAINING = _OPTIMISED | {"retain_weight"}
BEARING: dict[str, set[str]] = {
    "duolearn": (_RETAINING | _LOW_RANK) - {"train"}
    | {
        "geometric_steps",
        "basis",
        "trust",
        "damping",
        "lexicon",
        "unlearning",
        "preserving",
        "question_weight",
        "choices",
        "beta",
        "early_stop",
        "dp",
        "epsilon",
        "delta",
        "clip",
    },
    "ga": _OPTIMISED | _LOW_RANK,
    "graddiff": _RETAINING | _LOW_RANK,
    "kl": _RETAINING | _LOW_RANK,
    "npo": _RETAINING | _LOW_RANK | {"beta"},
    "simnpo": _RETAINING | _LOW_RANK | {"beta"},
    "rmu": _RETAINING | _LOW_RANK | {"steering"},
    "idk": _RETAINING | _LOW_RANK,
    "retrain": {"train_config", "seed"},
}
"""By method that trains, the settings that bear on it."""

FORGET_WEIGHTS = {"simnpo": 0.125}
"""γ by method; 1 where a method is not named. What is said of the baselines is open-unlearning's published default."""

RETAIN_WEIGHTS = {"duolearn": 3.0}
"""α by method; 1 where a method is not named."""

BETAS = {"npo": 0.1, "simnpo": 4.5, "duolearn": 1.0}
"""β by method: how soon what is forgotten is pushed no further; DuoLearn's is of tokens, not of whole answers."""

LEARNING_RATES = {"full": 1e-5, "lora": 1e-4, "duolearn": 3e-3}
"""Of AdamW, by what is trained; DuoLearn's few parameters move faster."""

EPOCHS = 10
"""How often a baseline goes through the target's records."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of the methods that train; docs/duolearn.md defines each. None means the method's own default.

    train: `full` (every parameter; the baselines' default) or `lora` (DuoLearn's only way). lora_rank: by default the
    largest whose parameters are at most the share `lora_share` of the model's. lora_targets: names of linear layers,
    such as `down_proj,o_proj`; by default those that write into the residual stream.
    steps (of the optimiser), learning_rate, step_records (records of the target, and of the retained, a step),
    weight_decay, forget_weight (γ), retain_weight (α), beta (β, NPO's and SimNPO's), steering (RMU's coefficient).
    DuoLearn: geometric_steps, basis (retained gradients that a step is kept orthogonal to), trust (largest Fisher norm
    of a step, divided by √P), damping (of the Fisher, in its means); lexicon (a file), unlearning (`npo` or `ga`),
    preserving (`kl` or `ce`), question_weight (of concept tokens in the question), choices (whether shared words are
    targeted where retained answers choose others), early_stop (once the goals are met).
    dp: whether DuoLearn's gradients are differentially private; epsilon, delta (1/(10 n) by default), clip (the norm).
    train_config: the file that says how the model was trained (retrain).
    """

    train: str | None = None
    lora_rank: int | None = None
    lora_share: float = 0.001
    lora_targets: str | None = None
    steps: int | None = None
    learning_rate: float | None = None
    step_records: int = 32
    weight_decay: float = 0.01
    forget_weight: float | None = None
    retain_weight: float | None = None
    beta: float | None = None
    steering: float = 2.0
    geometric_steps: int = 40
    basis: int = 8
    trust: float = 0.001
    damping: float = 0.1
    lexicon: str | None = None
    unlearning: str = "npo"
    preserving: str = "kl"
    question_weight: float = 0.0
    choices: bool = True
    early_stop: bool = True
    dp: bool = True
    epsilon: float = 4.0
    delta: float | None = None
    clip: float = 1.0
    train_config: str | None = None

    def __post_init__(self) -> None:
        if self.train is not None:
            one_of("--train", self.train, WAYS)
        one_of("--unlearning", self.unlearning, ("npo", "ga"))
        one_of("--preserving", self.preserving, ("kl", "ce"))
        counts = {"lora_rank": 1, "steps": 0, "step_records": 1, "geometric_steps": 0, "basis": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            if value is not None:
                require(value >= least, f"{flag(name)} must be at least {least}", value)
        positive = ("learning_rate", "beta", "trust", "damping", "epsilon", "clip", "steering", "lora_share")
        for name in positive:
            value = getattr(self, name)
            if value is not None:
                require(0 < value < math.inf, f"{flag(name)} must be a finite number above 0", value)
        require(self.lora_share <= 1, "--lora-share is a share of the parameters, at most 1", self.lora_share)
        for name in ("weight_decay", "forget_weight", "retain_weight", "question_weight"):
            value = getattr(self, name)
            if value is not None:
                require(0 <= value < math.inf, f"{flag(name)} must not be negative", value)
        if self.delta is not None:
            require(0 < self.delta < 1, "--delta is a probability, above 0 and below 1", self.delta)


def own_defaults(method: str, settings: TrainingSettings) -> dict[str, Any]:
    """What stands for None, by setting, as far as it is known without the model and the records."""

    def own(given: float | None, standards: dict[str, float], otherwise: float | None) -> float | None:
        return standards.get(method, otherwise) if given is None else given

    way = {"duolearn": "lora", "retrain": "full"}.get(method) or settings.train or "full"
    return {
        "train": way,
        "learning_rate": own(settings.learning_rate, LEARNING_RATES, LEARNING_RATES[way]),
        "forget_weight": own(settings.forget_weight, FORGET_WEIGHTS, 1.0),
        "retain_weight": own(settings.retain_weight, RETAIN_WEIGHTS, 1.0),
        "beta": own(settings.beta, BETAS, None),
    }


def flag(name: str) -> str:
    """How a setting is spelled on the command line."""
    return "--" + name.replace("_", "-")


def one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UsageError where a flag's value is none of the choices."""
    if value not in choices:
        raise UsageError(f"{flag} {value!r} is none of {', '.join(choices)}")


def at_least(flag: str, value: int, least: int) -> None:
    """Raise UsageError where a number is too small."""
    if value < least:
        raise UsageError(f"{flag} {value}: give {least} or more")


def require(holds: bool, rule: str, value: float) -> None:
    """Raise UsageError, with the rule and the value, where the rule does not hold."""
    if not holds:
        raise UsageError(f"{rule}; it is {value}")
