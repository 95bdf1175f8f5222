"""`chip medforget finetune`: plant a benchmark's data in a base model, or all of it but what a gold model must not see.

The tuned checkpoint is written as an edit is: the base's own names, order, dtypes, shards and other files.
"""

import hashlib
import json
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from chip.collect.fitting import Notice
from chip.collect.team import Team, joined, launched, own_device
from chip.duolearn.kept import KeptTraining, TrainingLog, Where, remove_training
from chip.duolearn.loop import Watch
from chip.duolearn.trainable import require_peft
from chip.edit import Applying, Edit, StagedCheckpoint, refuse_existing, save_edits
from chip.edit.outputs import refuse_inside
from chip.edit.receipt import default_receipt, described, write_receipt
from chip.edit.recovery import recover
from chip.edit.writer import kept_once_committed
from chip.errors import ChipError
from chip.files import refuse_unwritable
from chip.hierarchy import Hierarchy, Record
from chip.measure import teacher_forced
from chip.medforget.finetune_settings import FinetuneSettings
from chip.medforget.finetuning import Ground, Planted, lora_layers, plant, trained_count, whole_parameters, worded
from chip.models.checkpoint import Checkpoint
from chip.models.folders import resolve_model
from chip.models.loading import LoadedModel, load_model
from chip.models.parameters import stored_parameters
from chip.models.sites import stored_sites
from chip.progress import Track, silent
from chip.records.digests import asked_digest
from chip.settings import CollectSettings
from chip.workflow.medforget.finetune_plan import (
    Asked,
    FinetuneRequest,
    FinetuneResult,
    facts,
    left_out_nodes,
    notices,
    read_taught,
)
from chip.workflow.prepared import training_file

ASKED = 64
"""Records that are asked before and after, of those taught and of those left out each; drawn by seed."""


@dataclass(frozen=True)
class PreparedFinetune:
    """A training that was checked and is ready to be carried out.

    settings: the request's, with what stands for None. taught: the records that are taught, with their levels.
    left_out: those that are not. ground: what is trained, proved to be stored as it was loaded. facts: the plan, as
    names with what to say of each; notices: what was decided.
    """

    request: FinetuneRequest
    settings: FinetuneSettings
    checkpoint: Checkpoint
    loaded: LoadedModel
    taught: Hierarchy
    left_out: tuple[Record, ...]
    ground: Ground
    facts: Mapping[str, str]
    notices: tuple[str, ...]


def prepare_finetune(request: FinetuneRequest) -> PreparedFinetune:
    """Read and check everything that a training needs, and plan it. Writes nothing."""
    CollectSettings(save_every=request.save_every)  # refuses what is no time
    if request.settings.train == "lora":
        require_peft()
    directory = resolve_model(request.model)
    hierarchy, settings = read_taught(request)
    gone = left_out_nodes(request, hierarchy)
    taught = hierarchy.without(gone)
    if not taught.records:
        raise ChipError("nothing is left to teach: what is left out is every record; leave out less")
    kept = set(hierarchy.outside(gone))
    recovered = _refuse_outputs(request, directory)
    checkpoint = Checkpoint(directory)
    loaded = load_model(checkpoint, own_device(request.device), request.dtype)
    planned = facts(request, settings, checkpoint, loaded, hierarchy, taught)
    return PreparedFinetune(
        request,
        settings,
        checkpoint,
        loaded,
        taught,
        tuple(one for i, one in enumerate(hierarchy.records) if i not in kept),
        _ground(loaded, settings, checkpoint),
        planned,
        (*([recovered] if recovered else []), *notices(request, settings, loaded)),
    )


def carry_out_finetune(
    prepared: PreparedFinetune, track: Track = silent, notice: Notice = warnings.warn
) -> FinetuneResult | None:
    """Ask, train, write, ask again. On any failure nothing is left at the output but the training's progress.

    Where a launcher started several processes, each runs its share of every step's records; the first writes, and the
    others come back with None.
    """
    started, request, loaded = time.monotonic(), prepared.request, prepared.loaded
    with joined(loaded.device) as team:
        identity = identity_of(prepared)
        team.agree(
            identity, loaded.device, "was given another model, data or settings than process 0: start them alike"
        )
        groups = _groups(prepared)
        before = [_answered(loaded, prepared, records) for _, _, records in groups] if team.leads else []
        watch = _watch(prepared, identity, team, track, notice)
        planted = plant(loaded, prepared.ground, prepared.taught.records, prepared.settings, watch, team)
    if not team.leads:
        return None
    edit = _edit(prepared, planted)
    written = _write(prepared, planted, edit, groups, before, notice, started)
    remove_training(training_file(request.out))
    return written


def identity_of(prepared: PreparedFinetune) -> str:
    """SHA-256 of all that the outcome of a training depends on: the model, the records that are taught, the settings,
    and where and how exactly it is computed."""
    checkpoint, loaded = prepared.checkpoint, prepared.loaded
    content = [
        checkpoint.digest,
        checkpoint.prompts_digest,
        asked_digest(prepared.taught),
        asdict(prepared.settings),
        str(loaded.dtype),
        loaded.device.type,
        launched()[1],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class _Followed(KeptTraining):
    """Progress that the first of several processes keeps and the others only take up."""

    @property
    def due(self) -> bool:
        return False

    def write(self, where: Where, parameters: Mapping[str, Tensor], memory: Mapping[str, Tensor]) -> None:
        """Leave that to the first."""


def _watch(prepared: PreparedFinetune, identity: str, team: Team, track: Track, notice: Notice) -> Watch:
    request = prepared.request
    kind = KeptTraining if team.leads else _Followed
    return Watch(
        met=None,
        kept=kind(training_file(request.out), identity, request.save_every),
        log=None if request.log is None or not team.leads else TrainingLog(request.log),
        last_good=request.keep_last_good,
        track=track,
        notice=notice if team.leads else _unsaid,
        smaller="a smaller --batch-size and a larger --accumulate, or --gradient-checkpointing",
    )


def _unsaid(said: str) -> None:
    """What the first of several processes says is not said again."""


def _ground(loaded: LoadedModel, settings: FinetuneSettings, checkpoint: Checkpoint) -> Ground:
    """What is trained, each proved to be stored as it was loaded."""
    count = trained_count(loaded, settings)
    if settings.train == "full":
        return Ground((), stored_parameters(loaded.model, checkpoint, whole_parameters(loaded)), count)
    stored = stored_sites(loaded.model, checkpoint, lora_layers(loaded, settings))
    return Ground(tuple(stored.values()), {}, count)


def _edit(prepared: PreparedFinetune, planted: Planted) -> Edit:
    matrices = [*(one.weight for one in prepared.ground.sites), *prepared.ground.parameters.values()]
    stored = {matrix.name: matrix for matrix in matrices}
    changes = planted.made.changes
    base = {change.tensor: stored[change.tensor].digest() for change in changes}
    return Edit("finetune", asdict(prepared.settings), changes, base)


def _write(
    prepared: PreparedFinetune,
    planted: Planted,
    edit: Edit,
    groups: Sequence[tuple[str, int, Sequence[Record]]],
    before: Sequence[tuple[float, float]],
    notice: Notice,
    started: float,
) -> FinetuneResult:
    """Write the tuned checkpoint, prove it, ask it, and only then put it into place beside its receipt."""
    request = prepared.request
    receipt, applying = default_receipt(request.out), Applying([edit])
    training = {
        **asdict(planted.course),
        "planned": prepared.settings.steps(len(prepared.taught.records)),
        "parameters": prepared.ground.count,
        "records": len(prepared.taught.records),
    }
    with StagedCheckpoint(prepared.checkpoint, applying, request.out, force=request.force) as written:
        proof = written.prove()
        if applying.rounding.meant:
            notice(applying.rounding.described)
        prepared.loaded.model.to("cpu")  # type: ignore[arg-type]  # an accelerator may not hold both
        tuned = load_model(Checkpoint(written.directory, unfinished=True), own_device(request.device), request.dtype)
        after = [_answered(tuned, prepared, records) for _, _, records in groups]
        asked = tuple(
            Asked(name, len(records), of, *(value for pair in zip(old, new, strict=True) for value in pair))
            for (name, of, records), old, new in zip(groups, before, after, strict=True)
        )
        with kept_once_committed(written) as beside:
            seconds = time.monotonic() - started
            content = {
                "action": "finetune",
                **described(applying.edits, proof, written.copied, applying.rounding),
                "training": training,
                "verification": [asdict(one) for one in asked],
                "seconds": round(seconds, 3),
            }
            write_receipt(receipt, content)
            beside.append(receipt)
            if request.edit_out is not None:
                save_edits(applying.edits, request.edit_out)
                beside.append(request.edit_out)
            written.commit()
    return FinetuneResult(request.out, receipt, request.edit_out, training, asked, proof, seconds)


def _groups(prepared: PreparedFinetune) -> list[tuple[str, int, list[Record]]]:
    """What is asked before and after: a sample of what is taught and one of what is left out, with how many there are;
    in the first wording."""
    groups = []
    for name, records in (("taught", prepared.taught.records), ("left out", prepared.left_out)):
        order = random.Random(f"{prepared.settings.seed} asked").sample(range(len(records)), len(records))
        groups.append((name, len(records), [records[i] for i in sorted(order[:ASKED])]))
    return [group for group in groups if group[2]]


def _answered(loaded: LoadedModel, prepared: PreparedFinetune, records: Sequence[Record]) -> tuple[float, float]:
    """Mean answer loss, and the share of records whose every answer token is the likeliest."""
    encoded = loaded.prompts.encode_all([worded(record, 0, 1) for record in records])
    answers = teacher_forced(loaded, encoded, batch_size=prepared.settings.batch_size)
    return sum(one.loss for one in answers) / len(answers), sum(one.likeliest for one in answers) / len(answers)


def _refuse_outputs(request: FinetuneRequest, directory: Path) -> str:
    """Refuse what may not be written; what a run that was killed left at the output is put right, and said."""
    refuse_unwritable(request.out)
    recovered = recover(directory, request.out) if launched()[0] == 0 else ""
    refuse_existing(request.out, directory, force=request.force)
    beside = {"--log": request.log, "--edit-out": request.edit_out, "--out (its receipt)": default_receipt(request.out)}
    refuse_inside(beside, (request.out, directory))
    for path in (request.log, request.edit_out):
        if path is not None:
            refuse_unwritable(path)
    return recovered
