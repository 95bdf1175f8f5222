"""What a user may set about planting a data set in a model, with its defaults and limits. Imports no torch."""

import math
from dataclasses import dataclass

from chip.errors import UsageError
from chip.training_settings import WAYS, flag, one_of, require


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Settings of `chip medforget finetune`; the defaults are those of the authors' recipe (finetune.py of
    github.com/fengli-wu/MedForget).

    train: `lora` (factors beside every linear layer of the language model) or `full` (every parameter). projector:
    with LoRA, beside the projector's linear layers too. batch_size, accumulate: records that run at once, and how many
    times so many make up a step. wordings: of each record, how many are taught, one an epoch in turn; None for all that
    it has. checkpointing: whether activations are computed again on the way back instead of kept; None where that is
    decided by the model's size.
    """

    train: str = "lora"
    epochs: int = 3
    learning_rate: float = 1e-4
    lora_rank: int = 16
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    batch_size: int = 2
    accumulate: int = 4
    projector: bool = False
    wordings: int | None = None
    seed: int = 0
    checkpointing: bool | None = None

    def __post_init__(self) -> None:
        one_of("--train", self.train, WAYS)
        for name in ("epochs", "lora_rank", "batch_size", "accumulate", "wordings"):
            value = getattr(self, name)
            if value is not None:
                require(value >= 1, f"{flag(name)} must be at least 1", value)
        for name in ("learning_rate", "lora_alpha"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{flag(name)} must be a finite number above 0", value)
        require(0 <= self.lora_dropout < 1, "--lora-dropout is a share, at least 0 and below 1", self.lora_dropout)
        if self.projector and self.train == "full":
            raise UsageError("--projector adds to what LoRA trains, and --train full trains everything; leave one out")

    @property
    def step_records(self) -> int:
        """Records of one step."""
        return self.batch_size * self.accumulate

    def epoch_steps(self, records: int) -> int:
        """Steps of one epoch; its last may have fewer records."""
        return math.ceil(records / self.step_records)

    def steps(self, records: int) -> int:
        """Steps of the whole training."""
        return self.epochs * self.epoch_steps(records)
