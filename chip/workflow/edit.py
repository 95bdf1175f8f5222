"""`chip edit`: forget nodes and write the new checkpoint, with its receipt."""

import time
import warnings
from dataclasses import replace
from pathlib import Path

from chip.collect.fitting import Notice
from chip.collect.team import launched
from chip.duolearn.solving import trained_parameters
from chip.edit.outputs import refuse_existing, refuse_inside
from chip.edit.receipt import hashed_nodes, read_salt
from chip.edit.recovery import recover
from chip.edit.signature import private_key
from chip.errors import UsageError
from chip.files import refuse_unwritable
from chip.hierarchy import Hierarchy, Split
from chip.models.checkpoint import Checkpoint
from chip.models.folders import resolve_model
from chip.models.loading import LoadedModel, load_model
from chip.models.parameters import stored_parameters
from chip.models.sites import StoredSite, stored_sites
from chip.progress import Track, silent
from chip.records import read_records
from chip.solve.live import applied
from chip.solve.problem import chosen_sites, wanted
from chip.tuning.plot import refuse_plot
from chip.workflow.asking import Row, ask, rows
from chip.workflow.choosing import Choice, choose, groups_of
from chip.workflow.opened import Opened, Supply, forgotten_before, obtain, open_records, supply
from chip.workflow.planning import plan_edit
from chip.workflow.prepared import PreparedEdit, problem_of, refuse_impossible, space_for
from chip.workflow.request import EditRequest, EditResult
from chip.workflow.solvers import refuse_unready
from chip.workflow.statistics import default_statistics
from chip.workflow.tune import judged
from chip.workflow.writing import request_digest, write


def prepare_edit(
    request: EditRequest, *, model: LoadedModel | None = None, records: Hierarchy | None = None
) -> PreparedEdit:
    """Read and check everything that an edit needs, and plan it. Writes nothing.

    model: the request's checkpoint as it is loaded already. records: those that stand for the request's data directory.
    """
    refuse_several("chip edit")
    refuse_request(request)
    refuse_unready(request.settings)
    directory = resolve_model(request.model)
    out = directory if request.in_place else request.out or default_output(request.model)
    hierarchy = records or read_records(request.data)
    targets = [hierarchy.resolve(name) for name in request.forget]
    if not (request.forgotten or request.forgotten_nodes):
        hierarchy.split(targets)  # refused before a model is loaded
    if request.sign is not None:
        private_key(request.sign)
    recovered = ""
    if not request.dry_run:
        refuse_unwritable(out)
        if not request.settings.trains:
            refuse_unwritable(request.statistics or default_statistics(request.model, out))
        recovered = recover(directory, out)
        if not request.in_place:
            refuse_existing(out, directory, force=request.force)
        refuse_inside(files_beside(request), (out, directory))
        if request.training_log is not None:
            refuse_unwritable(request.training_log)
    checkpoint = Checkpoint(directory)
    forgotten = forgotten_before(hierarchy, checkpoint, request.forgotten, request.forgotten_nodes)
    split = hierarchy.without(forgotten).split(targets)
    loaded = model or load_model(checkpoint, request.device, request.dtype)
    refuse_impossible(request, loaded, hierarchy.without(forgotten), split)
    opened = open_records(hierarchy, checkpoint, loaded, request.collecting, forgotten)
    widest = space_for(request, loaded).widest
    stored = stored_sites(loaded.model, checkpoint, chosen_sites(loaded.sites, widest))
    supplied = supply(
        opened,
        request.statistics or default_statistics(request.model, out),
        wanted(loaded.sites, widest),
        request.settings.alpha,
        request.collecting,
        must_fit=request.statistics is not None and request.statistics.exists(),
    )
    prepared = prepare(request, opened, split, stored, supplied, out)
    if not recovered:
        return prepared
    return replace(prepared, plan=replace(prepared.plan, notices=(recovered, *prepared.plan.notices)))


def prepare(
    request: EditRequest, opened: Opened, split: Split, stored: dict[str, StoredSite], supplied: Supply, out: Path
) -> PreparedEdit:
    """Plan a request on what was opened for it. `stored` may hold more sites than it may choose."""
    loaded = opened.loaded
    space = space_for(request, loaded)
    own = {site.name: stored[site.name] for site in chosen_sites(loaded.sites, space.widest)}
    touched = {site.name: stored[site.name] for site in chosen_sites(loaded.sites, request.settings)}
    plan = plan_edit(request, opened, touched, split, supplied, out)
    parameters = stored_parameters(loaded.model, opened.checkpoint, trained_parameters(loaded, request.settings))
    return PreparedEdit(request, opened, space, own, split, supplied, plan, parameters)


def carry_out(prepared: PreparedEdit, track: Track = silent, notice: Notice = warnings.warn) -> EditResult:
    """Collect, solve, write, verify. On any failure nothing is left at the output."""
    started, request = time.monotonic(), prepared.request
    salt = b"" if request.dry_run else read_salt()
    choice = _chosen(prepared, salt, track, notice)
    if request.dry_run:
        return EditResult(
            choice.solved.sites,
            tuning=choice.tuning,
            verdict=choice.verdict,
            training=choice.solved.training,
            change=choice.solved.edit,
        )
    return write(prepared, choice, salt, started, track, notice)


def carry_out_in_memory(prepared: PreparedEdit, track: Track = silent, notice: Notice = warnings.warn) -> EditResult:
    """Solve a dry run's request and ask the loaded model with the edit on it, which is taken off again; nothing is
    written. The change names the targets by hashes under the owner's salt, as one that is written does."""
    request, salt = prepared.request, read_salt()
    choice = _chosen(prepared, salt, track, notice)
    change = replace(choice.solved.edit, nodes=tuple(hashed_nodes(prepared.split.targets, salt)))
    table, verdict = tuple[Row, ...](), None
    if request.verify:
        batch = request.settings.batch_size
        before = choice.before or ask(prepared.loaded, choice.groups, batch, track, "asking the model before")
        with applied(prepared.loaded.model, change):
            after = ask(prepared.loaded, choice.groups, batch, track, "asking the model after")
        table, verdict = rows(choice.parts, before, after), judged(choice.parts, before, after, request.tuning)
    return EditResult(
        choice.solved.sites,
        table,
        tuning=choice.tuning,
        verdict=verdict,
        training=choice.solved.training,
        change=change,
    )


def _chosen(prepared: PreparedEdit, salt: bytes, track: Track, notice: Notice) -> Choice:
    request = prepared.request
    standing = obtain(
        prepared.opened,
        prepared.supply,
        request.settings.alpha,
        request.collecting,
        keep=not request.dry_run,
        track=track,
        notice=notice,
    )
    identity = request_digest(request, prepared.opened, prepared.split.targets, (), salt)
    problem = problem_of(prepared, standing, track, notice, salt=salt, identity=identity)
    return choose(request, problem, prepared.space, groups_of(prepared), track, notice)


def default_output(model: str) -> Path:
    """`model-forgotten` beside the model; for a hub id, in the working directory."""
    path = Path(model).resolve() if Path(model).is_dir() and not Path(model).name else Path(model)
    return path.with_name(path.name + "-forgotten") if path.is_dir() else Path(path.name + "-forgotten")


def refuse_several(verb: str) -> None:
    """Raise UsageError where a launcher started several processes of a verb that runs as one."""
    if launched()[1] > 1:
        raise UsageError(f"{verb} runs as one process; let several run `chip collect`, and give --statistics")


def refuse_request(request: EditRequest) -> None:
    """Raise UsageError where flags do not go together: what was asked of a search above all."""
    if request.verify_records < 1:
        raise UsageError("--verify-records must be at least 1; --no-verify asks nobody")
    for flag, given in {"--out": request.out is not None, "--link": request.link, "--force": request.force}.items():
        if request.in_place and given:
            raise UsageError(f"{flag} is about a new checkpoint and --in-place writes none; leave one of them out")
    if request.tuning.tune and not request.verify:
        raise UsageError("--tune measures every edit that it tries, so it cannot go with --no-verify")
    if request.plot is not None and not request.searches:
        instead = "give --tune" if request.settings.private else "leave out --no-tune and --no-verify"
        raise UsageError(f"--plot shows the edits that were tried; {instead}")
    if request.plot is not None and request.dry_run:
        raise UsageError("--plot writes a file and --dry-run writes nothing; leave one of them out")
    if request.training_log is not None and request.dry_run:
        raise UsageError("--training-log writes a file and --dry-run writes nothing; leave one of them out")
    if request.plot is not None:
        refuse_plot(request.plot)


def files_beside(request: EditRequest) -> dict[str, Path | None]:
    """What is kept beside a checkpoint, by the flag that names it: none of it may lie inside one."""
    return {
        "--receipt": request.receipt,
        "--edit-out": request.edit_out,
        "--statistics": request.statistics,
        "--plot": request.plot,
        "--training-log": request.training_log,
    }
