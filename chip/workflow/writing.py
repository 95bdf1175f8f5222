"""Writing what was chosen: the edited checkpoint, asked before it is put into place, its receipt and the edit."""

import hashlib
import hmac
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from chip.collect.fitting import Notice
from chip.duolearn.kept import remove_training
from chip.edit import Applying, Edit, save_edits, written
from chip.edit.receipt import described, hashed_nodes, write_receipt
from chip.edit.writer import kept_once_committed
from chip.errors import ChipError
from chip.files import write_private
from chip.hierarchy import NodePath
from chip.measure import Answers, Group
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.models.matrix import RoundingError
from chip.progress import Track, silent
from chip.tuning.plot import plot_trials
from chip.workflow.asking import Row, ask, rows
from chip.workflow.choosing import Choice
from chip.workflow.opened import Opened
from chip.workflow.prepared import PreparedEdit, training_file
from chip.workflow.request import EditRequest, EditResult
from chip.workflow.solvers import read_along
from chip.workflow.tune import Verdict, judged


def write(
    prepared: PreparedEdit,
    choice: Choice,
    salt: bytes,
    started: float,
    track: Track = silent,
    notice: Notice = warnings.warn,
) -> EditResult:
    """Write the edited checkpoint, prove it, ask it, and only then put it into place beside its receipt. On any failure
    nothing is left at the output.

    started: when work on the request began, by `time.monotonic`.
    """
    request, out, plan = prepared.request, prepared.plan.out, prepared.plan
    if out is None or plan.receipt is None:
        raise ChipError("this edit was planned as a dry run; prepare it again to write it")
    applying = Applying([replace(choice.solved.edit, nodes=tuple(hashed_nodes(prepared.split.targets, salt)))])
    place = None if request.in_place else out
    with written(prepared.checkpoint, applying, place, force=request.force, link=request.link) as made:
        if made.recovered:
            notice(made.recovered)
        proof = made.prove()
        if applying.rounding.meant:
            notice(applying.rounding.described)
        table: tuple[Row, ...] = ()
        verdict: Verdict | None = None
        if request.verify:
            after = ask_again(prepared, choice.groups, made.directory, track)
            table = rows(choice.parts, choice.before, after)
            verdict = judged(choice.parts, choice.before, after, request.tuning)
        result = EditResult(
            choice.solved.sites,
            table,
            out,
            plan.receipt,
            request.edit_out,
            choice.tuning,
            verdict,
            proof,
            choice.solved.training,
            applying.edits[0],
        )
        content = receipt_of(
            prepared, applying.edits[0], result, salt, time.monotonic() - started, made.copied, applying.rounding
        )
        with kept_once_committed(made) as beside:
            write_receipt(plan.receipt, content, request.sign)
            beside.append(plan.receipt)
            if request.edit_out is not None:
                save_edits(applying.edits, request.edit_out)
                beside.append(request.edit_out)
            if request.plot is not None and (tuning := choice.tuning) is not None:
                write_private(request.plot, plot_trials(tuning.trials, tuning.trials[tuning.chosen], tuning.goals))
                beside.append(request.plot)
            made.commit()
    remove_training(training_file(out))
    return result


def ask_again(prepared: PreparedEdit, groups: Sequence[Group], directory: Path, track: Track) -> Answers:
    """What a checkpoint that was written answers, loaded as any other would be."""
    request = prepared.request
    prepared.loaded.model.to("cpu")  # type: ignore[arg-type]  # an accelerator may not hold both
    again = load_model(Checkpoint(directory, unfinished=True), request.device, request.dtype)
    return ask(again, groups, request.settings.batch_size, track, "asking the model after")


def receipt_of(
    prepared: PreparedEdit,
    edit: Edit,
    result: EditResult,
    salt: bytes,
    seconds: float,
    copied: str,
    rounding: RoundingError | None = None,
) -> dict[str, Any]:
    """The receipt of one edit."""
    found = result.as_json()
    return {
        "action": "edit",
        **described([edit], result.proof, copied, rounding),
        "request": request_digest(prepared.request, prepared.opened, prepared.split.targets, edit.after, salt),
        "forgotten": hashed_nodes(prepared.opened.forgotten, salt),
        "records": dict(prepared.plan.records),
        "sites": found["sites"],
        "verification": found["rows"],
        "tuning": found["tuning"],
        "training": found["training"],
        "verdict": found["verdict"],
        "seconds": round(seconds, 3),
    }


def request_digest(
    request: EditRequest, opened: Opened, targets: Sequence[NodePath], after: Sequence[str], salt: bytes
) -> str:
    """HMAC-SHA256 under the owner's salt of all that the outcome of a request depends on: the model, the records, what
    is to be forgotten and how, how it is verified, what was forgotten before, and the edits before it."""
    content: Mapping[str, Any] = {
        "opened": opened.digest,
        "targets": sorted(targets),
        "forgotten": opened.forgotten,
        "settings": asdict(request.settings),
        "fixed": sorted(request.fixed),
        "collecting": asdict(replace(request.collecting, workers=None, save_every=0.0)),
        "tuning": asdict(request.tuning),
        "verify": request.verify_records if request.verify else None,
        "after": after,
        "files": read_along(request.settings),
    }
    return hmac.new(salt, json.dumps(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()
