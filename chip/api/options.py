"""The keywords that the Python interface takes beside models, records and nodes, with their types: what the command
line has flags for. docs/command-line.md says what each means."""

from collections.abc import Sequence
from os import PathLike
from typing import TypedDict

from chip.settings import CollectSettings, TuningSettings

AnyPath = str | PathLike[str]


class SettingOptions(TypedDict, total=False):
    """The fields of `chip.EditSettings`: what is given here is never changed by a search."""

    method: str
    layers: str | None
    sites: str
    top_k: float
    variance: float
    alpha: float
    keys: str
    toward: str
    strength: float | None
    retain_budget: float | None
    ridge: float | None
    sibling_weight: float
    unknown_images: int
    overshoot: float
    gain: float
    held: int
    rounds: int
    refresh: int
    seed: int
    batch_size: int
    train: str | None
    lora_rank: int | None
    lora_share: float
    lora_targets: str | None
    steps: int | None
    learning_rate: float | None
    step_records: int
    weight_decay: float
    forget_weight: float | None
    retain_weight: float | None
    beta: float | None
    steering: float
    geometric_steps: int
    basis: int
    trust: float
    damping: float
    lexicon: str | None
    unlearning: str
    preserving: str
    question_weight: float
    choices: bool
    early_stop: bool
    dp: bool
    epsilon: float
    delta: float | None
    clip: float
    train_config: str | None


class EditOptions(SettingOptions, total=False):
    """What else `chip edit` has flags for."""

    receipt: AnyPath | None
    edit_out: AnyPath | None
    plot: AnyPath | None
    training_log: AnyPath | None
    keep_last_good: bool
    forgotten: Sequence[AnyPath]
    forgotten_nodes: Sequence[str]
    collecting: CollectSettings
    tuning: TuningSettings
    device: str
    dtype: str
    verify: bool
    verify_records: int
    dry_run: bool
    force: bool
    link: bool
    in_place: bool
    sign: AnyPath | None


class CollectOptions(TypedDict, total=False):
    """What `chip collect` has flags for."""

    settings: CollectSettings
    sites: str
    alpha: float
    device: str
    dtype: str
    force: bool


class AuditOptions(TypedDict, total=False):
    """What `chip audit` has flags for; `chip audit --help` says what each means."""

    gold: AnyPath | None
    attacks: Sequence[str] | None
    quick: bool
    compare: Sequence[AnyPath]
    lexicon: AnyPath | None
    nonmembers: AnyPath | None
    utility: AnyPath | None
    harness: Sequence[str]
    harness_tasks: AnyPath | None
    show_records: bool
    records: int
    device: str
    dtype: str
    batch_size: int
    seed: int
