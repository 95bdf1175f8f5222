"""`chip apply`: write checkpoints from edit files, without data, statistics or a model. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chip.edit import Applying, Edit, load_edits, save_edits, written
from chip.edit.chain import fitting
from chip.edit.outputs import files_left_behind, refuse_existing, refuse_inside
from chip.edit.proof import Proof
from chip.edit.receipt import default_receipt, described, write_receipt
from chip.edit.recovery import recover
from chip.edit.signature import private_key
from chip.edit.writer import kept_once_committed
from chip.errors import ChipError, UsageError
from chip.files import refuse_unwritable
from chip.models.checkpoint import Checkpoint
from chip.models.folders import checkpoints_in
from chip.progress import Track, silent


@dataclass(frozen=True)
class ApplyRequest:
    """Everything that `chip apply` was asked; docs/command-line.md describes each.

    models: checkpoints, or folders of them. edits: edit files, applied in their order. out: the new checkpoint, or with
    several the folder of all. after: edit files that the models carry already.
    """

    models: tuple[Path, ...]
    edits: tuple[Path, ...]
    out: Path | None = None
    after: tuple[Path, ...] = ()
    transfer: bool = False
    in_place: bool = False
    link: bool = False
    force: bool = False
    verify: bool = True
    receipt: Path | None = None
    edit_out: Path | None = None
    sign: Path | None = None


@dataclass(frozen=True)
class PlannedApply:
    """One checkpoint that edits will be applied to: what fits it, and where everything goes. `recovered` says in words
    what an interrupted run had left of it; `forgotten`, hashed, is what the edits that it carries already are of."""

    base: Checkpoint
    edits: tuple[Edit, ...]
    out: Path
    receipt: Path
    left_behind: tuple[str, ...]
    forgotten: tuple[str, ...] = ()
    recovered: str = ""


@dataclass(frozen=True)
class Applied:
    """One checkpoint that was written. rounding: of fp8, what it took from the edit, in words."""

    base: Path
    out: Path
    receipt: Path
    edits: tuple[str, ...]
    transferred: bool
    copied: str
    proof: Proof | None
    rounding: str

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def prepare_apply(request: ApplyRequest) -> tuple[PlannedApply, ...]:
    """Read and check everything: each edit against each checkpoint. Writes nothing, but that it puts back what an
    interrupted edit in place had left."""
    _refuse_flags(request)
    edits = tuple(edit for path in request.edits for edit in load_edits(path))
    after = tuple(edit for path in request.after for edit in load_edits(path))
    models = [model for given in request.models for model in checkpoints_in(given)]
    several = len(models) > 1 or models[0] != request.models[0]
    if several and (request.receipt is not None or request.edit_out is not None):
        raise UsageError("--receipt and --edit-out name one file; with several checkpoints leave them out")
    if len({model.name for model in models}) < len(models):
        raise ChipError("two of the checkpoints have one name, and so would their outputs; apply to each by itself")
    return tuple(_planned(request, model, edits, after, several=several) for model in models)


def carry_out_apply(
    request: ApplyRequest,
    planned: Sequence[PlannedApply],
    track: Track = silent,
    tell: Callable[[Applied], None] = lambda _: None,
) -> tuple[Applied, ...]:
    """Write, prove, and put into place, one checkpoint after the other; each is told once it is done, and stays when a
    later one fails."""
    done = []
    for one in track(planned, "writing checkpoints"):
        done.append(_apply(request, one))
        tell(done[-1])
    return tuple(done)


def _planned(
    request: ApplyRequest, model: Path, edits: Sequence[Edit], after: Sequence[Edit], *, several: bool
) -> PlannedApply:
    out = _output(request, model, several=several)
    refuse_unwritable(out)
    recovered = recover(model, out)
    base = Checkpoint(model)
    if not request.in_place:
        refuse_existing(out, model, force=request.force)
    receipt = request.receipt or default_receipt(out, in_place=request.in_place)
    refuse_inside({"--receipt": receipt, "--edit-out": request.edit_out}, (out, model))
    return PlannedApply(
        base,
        fitting(base, edits, after, transfer=request.transfer, hint="; --transfer derives it anew for these"),
        out,
        receipt,
        () if request.in_place else tuple(files_left_behind(base)),
        tuple(node for edit in after for node in edit.nodes),
        recovered,
    )


def _output(request: ApplyRequest, model: Path, *, several: bool) -> Path:
    if request.in_place or request.out is None:
        return model
    return request.out / model.resolve().name if several else request.out


def _apply(request: ApplyRequest, planned: PlannedApply) -> Applied:
    applying = Applying(planned.edits)
    place = None if request.in_place else planned.out
    with written(planned.base, applying, place, force=request.force, link=request.link) as made:
        proof = made.prove() if request.verify else None
        receipt = {
            "action": "apply",
            "forgotten": planned.forgotten,
            **described(applying.edits, proof, made.copied, applying.rounding),
        }
        with kept_once_committed(made) as beside:
            write_receipt(planned.receipt, receipt, request.sign)
            beside.append(planned.receipt)
            if request.edit_out is not None:
                save_edits(applying.edits, request.edit_out)
                beside.append(request.edit_out)
            made.commit()
    return Applied(
        planned.base.directory,
        planned.out,
        planned.receipt,
        tuple(edit.identity for edit in applying.edits),
        any(edit.transferred for edit in applying.edits),
        made.copied,
        proof,
        applying.rounding.described if applying.rounding.meant else "",
    )


def _refuse_flags(request: ApplyRequest) -> None:
    if not request.edits:
        raise UsageError("no edit file was given; `chip edit --edit-out FILE` makes one")
    if not request.models:
        raise UsageError("no checkpoint was given: name a directory before the edit files")
    if request.in_place == (request.out is not None):
        raise UsageError("give either --out, for a new checkpoint, or --in-place")
    if request.in_place and (request.link or request.force):
        raise UsageError("--link and --force are about a new checkpoint and --in-place writes none")
    if request.sign is not None:
        private_key(request.sign)
