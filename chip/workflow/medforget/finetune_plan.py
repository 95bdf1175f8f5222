"""Planting a data set in a model: what is asked and answered, which records are taught, and what the plan says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from chip.edit.proof import Proof
from chip.edit.receipt import default_receipt
from chip.errors import UsageError
from chip.hierarchy import Hierarchy, NodePath, outermost
from chip.medforget.finetune_settings import FinetuneSettings
from chip.medforget.finetuning import lora_layers, recomputes, trained_count
from chip.medforget.layout import SPLITS, TRAINING
from chip.medforget.splits import read_splits
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel
from chip.records import read_records
from chip.records.jsonl import RECORDS


@dataclass(frozen=True)
class FinetuneRequest:
    """Everything that `chip medforget finetune` was asked; docs/medforget.md describes each."""

    model: str
    data: Path
    out: Path
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    without: tuple[str, ...] = ()
    without_sets: tuple[str, ...] = ()
    splits: Path | None = None
    log: Path | None = None
    edit_out: Path | None = None
    save_every: float = 60.0
    keep_last_good: bool = False
    device: str = "auto"
    dtype: str = "auto"
    force: bool = False


@dataclass(frozen=True)
class Asked:
    """Records asked before and after, by teacher forcing: their mean answer loss in nats a token, and the share of
    those whose every answer token is the likeliest one."""

    name: str
    count: int
    of: int
    loss_before: float
    loss_after: float
    likeliest_before: float
    likeliest_after: float


@dataclass(frozen=True)
class FinetuneResult:
    """What a training wrote: the checkpoint, its receipt, the edit where it was kept; how it went; what was asked
    before and after; and what was proved."""

    out: Path
    receipt: Path
    edit: Path | None
    training: Mapping[str, Any]
    asked: tuple[Asked, ...]
    proof: Proof
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "out": str(self.out),
            "receipt": str(self.receipt),
            "edit": None if self.edit is None else str(self.edit),
            "training": dict(self.training),
            "asked": [asdict(one) for one in self.asked],
            "proof": asdict(self.proof),
            "seconds": round(self.seconds, 3),
        }


def read_taught(request: FinetuneRequest) -> tuple[Hierarchy, FinetuneSettings]:
    """The records that a data directory has for training, and how many of their wordings are taught: all of those in
    `training.jsonl`; where that is not there, the question alone of those in `records.jsonl`, whose paraphrases are for
    evaluation."""
    made = (request.data / TRAINING).is_file()
    hierarchy = read_records(request.data, TRAINING if made else RECORDS)
    most = max(1 + len(record.paraphrases) for record in hierarchy.records)
    given = request.settings.wordings
    return hierarchy, replace(request.settings, wordings=min(most, (most if made else 1) if given is None else given))


def left_out_nodes(request: FinetuneRequest, hierarchy: Hierarchy) -> tuple[NodePath, ...]:
    """The nodes that are not taught, each with everything under it. Raises ChipError for one that there is not."""
    if request.splits is not None and not request.without_sets:
        raise UsageError("--splits says where --without-set finds its set; give that too, or leave --splits out")
    splits = request.splits or request.data / SPLITS
    names = list(request.without)
    for level, _, name in (spelled.partition("/") for spelled in request.without_sets):
        names += ["/".join(node) for node in read_splits(splits).chosen(level, name or None).forget]
    return outermost(hierarchy.resolve(name) for name in names)


def facts(
    request: FinetuneRequest,
    settings: FinetuneSettings,
    checkpoint: Checkpoint,
    loaded: LoadedModel,
    hierarchy: Hierarchy,
    taught: Hierarchy,
) -> dict[str, str]:
    """The plan, as names with what to say of each."""
    count, total = len(taught.records), sum(one.numel() for one in loaded.model.parameters())
    source = TRAINING if (request.data / TRAINING).is_file() else RECORDS
    gone = len(hierarchy.records) - count
    nodes = (*request.without, *request.without_sets)
    trained, steps = trained_count(loaded, settings), settings.steps(count)
    return {
        "model": f"{checkpoint.directory} ({loaded.family.name}, {str(loaded.dtype).removeprefix('torch.')} on "
        f"{loaded.device})",
        "records": f"{count} of {request.data / source}, each in {settings.wordings} wording"
        + ("s" if (settings.wordings or 1) > 1 else ""),
        "left out": f"{gone} records, under {', '.join(nodes)}" if nodes else "nothing",
        "trained": f"{_what(loaded, settings)}: {trained:,} parameters, {100 * trained / total:.3g} % of the model's",
        "steps": f"{steps}, in {settings.epochs} epoch{'s' if settings.epochs > 1 else ''} of {count} records, "
        f"{settings.step_records} a step ({settings.batch_size} at once), at a learning rate of "
        f"{settings.learning_rate:g} falling to 0",
        "output": str(request.out),
        "receipt": str(default_receipt(request.out)),
    }


def _what(loaded: LoadedModel, settings: FinetuneSettings) -> str:
    again = ", activations computed again on the way back" if recomputes(loaded, settings) else ""
    if settings.train == "full":
        return f"every parameter{again}"
    sites = lora_layers(loaded, settings)
    where = "the language model's and the projector's" if settings.projector else "the language model's"
    return (
        f"LoRA of rank {settings.lora_rank}, alpha {settings.lora_alpha:g}, dropout {settings.lora_dropout:g}, beside "
        f"{where} {len(sites)} linear layers{again}"
    )


def notices(request: FinetuneRequest, settings: FinetuneSettings, loaded: LoadedModel) -> list[str]:
    """What was decided. settings: the request's, with what the data made of them."""
    found = []
    given, there = request.settings.wordings, settings.wordings
    if given is not None and there is not None and given > there:
        found.append(f"--wordings {given}: no record has more than {there}, so that {there} are taught")
    if not loaded.family.known:
        found.append(f"the family {loaded.family.name!r} is not in chip's table: its layers were found by name")
    if not loaded.prompts.has_chat_template:
        found.append("the model has no chat template: records are shown as the question, a line break, the answer")
    if settings.wordings is not None and settings.wordings > settings.epochs:
        found.append(
            f"each epoch teaches one wording, so that of {settings.wordings} only the first {settings.epochs} are "
            f"taught; --epochs {settings.wordings} teaches all"
        )
    return found
