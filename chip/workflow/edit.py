"""`chip edit`: forget nodes and write the new checkpoint, with its receipt."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chip.collect.fitting import Notice
from chip.collect.reuse import StatisticsSource, find_statistics
from chip.collect.team import launched
from chip.edit import (
    Applying,
    CheckpointInPlace,
    Edit,
    StagedCheckpoint,
    WrittenCheckpoint,
    save_edits,
)
from chip.edit.journal import recover_model
from chip.edit.outputs import refuse_existing, refuse_inside
from chip.edit.proof import Proof
from chip.edit.receipt import described, hashed_nodes, read_salt, write_receipt
from chip.edit.signature import private_key
from chip.errors import ChipError, UsageError
from chip.files import write_private
from chip.hierarchy import Hierarchy, Split
from chip.measure import Answers, Group, Part, audit_groups, wholes
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model, resolve_model
from chip.models.sites import StoredSite, layer_count, stored_sites
from chip.plan import Plan
from chip.progress import Track, silent
from chip.records import read_records
from chip.records.digests import divide_images
from chip.solve.problem import Problem, Solved, chosen_sites, wanted
from chip.solve.solvers import solve
from chip.tuning.plot import plot_trials, refuse_plot
from chip.tuning.space import Space, space_of
from chip.workflow.audit import Row, ask, rows
from chip.workflow.planning import plan_edit
from chip.workflow.request import EditRequest, EditResult
from chip.workflow.statistics import (
    Collection,
    CountedRecords,
    counted_records,
    default_statistics,
    obtain_statistics,
    plan_collection,
)
from chip.workflow.tune import Tuner, Tuning, Verdict, choose_strength, judged


@dataclass(frozen=True)
class PreparedEdit:
    """An edit that was checked and is ready to be carried out. `stored` holds every site that a search may choose."""

    request: EditRequest
    checkpoint: Checkpoint
    loaded: LoadedModel
    space: Space
    stored: dict[str, StoredSite]
    hierarchy: Hierarchy
    split: Split
    counted: CountedRecords
    statistics: StatisticsSource
    collection: Collection
    plan: Plan


def prepare_edit(request: EditRequest) -> PreparedEdit:
    """Read and check everything that an edit needs, and plan it. Writes nothing."""
    if launched()[1] > 1:
        raise UsageError("chip edit runs as one process; let several run `chip collect`, and give --statistics")
    if request.verify_records < 1:
        raise UsageError("--verify-records must be at least 1; --no-verify asks nobody")
    _refuse_tuning(request)
    directory = resolve_model(request.model)
    _refuse_in_place(request)
    out = directory if request.in_place else request.out or default_output(request.model)
    hierarchy = read_records(request.data)
    split = hierarchy.split([hierarchy.resolve(name) for name in request.forget])
    if request.sign is not None:
        private_key(request.sign)
    recovered = recover_model(directory)
    if not request.dry_run:
        if not request.in_place:
            refuse_existing(out, directory, force=request.force)
        files = {"--receipt": request.receipt, "--edit-out": request.edit_out, "--statistics": request.statistics}
        refuse_inside({**files, "--plot": request.plot}, (out, directory))
    checkpoint = Checkpoint(directory)
    loaded = load_model(checkpoint, request.device, request.dtype)
    sites = chosen_sites(loaded.sites, request.settings)
    needs_images = request.settings.method == "oblique" and request.settings.keys == "image"
    if needs_images and (obstacle := divide_images(hierarchy, split).obstacle):
        raise ChipError(f"{obstacle}; use --keys answer")
    space = _space(request, loaded)
    stored = stored_sites(loaded.model, checkpoint, chosen_sites(loaded.sites, space.widest))
    counted = counted_records(hierarchy, checkpoint, loaded, request.collecting)
    source = find_statistics(
        request.statistics or default_statistics(request.model, out),
        counted.provenance,
        wanted(loaded.sites, space.widest),
        request.settings.alpha,
        must_fit=request.statistics is not None and request.statistics.exists(),
    )
    collection = plan_collection(loaded, hierarchy, counted, source, request.collecting)
    touched = {site.name: stored[site.name] for site in sites}
    plan = plan_edit(request, checkpoint, loaded, touched, hierarchy, split, source, collection, out)
    plan = replace(plan, notices=(recovered, *plan.notices)) if recovered else plan
    return PreparedEdit(request, checkpoint, loaded, space, stored, hierarchy, split, counted, source, collection, plan)


def carry_out(prepared: PreparedEdit, track: Track = silent, notice: Notice = warnings.warn) -> EditResult:
    """Collect, solve, write, verify. On any failure nothing is left at the output."""
    request, loaded = prepared.request, prepared.loaded
    groups = audit_groups(prepared.hierarchy, prepared.split, limit=request.verify_records, seed=request.settings.seed)
    salt = b"" if request.dry_run else read_salt()
    before: Answers = {}
    if request.verify and (request.searches or not request.dry_run):
        before = ask(loaded, groups, request.settings.batch_size, track, "asking the model before")
        _say_if_unknown(before, notice)
    problem = problem_of(prepared, track, notice)
    if not request.searches:
        solved = solve(problem)
        if request.dry_run:
            return EditResult(solved.sites)
        return _write(prepared, solved, groups, wholes(groups), None, before, salt, track, notice)
    tuner = Tuner(problem, groups, before, request.tuning)
    tuning, solved = choose_strength(tuner, prepared.space, request.tuning, track)
    if request.dry_run:
        return EditResult(solved.sites, tuning=tuning, verdict=tuner.judge(solved, halved=tuning.halved))
    parts = tuner.parts if tuning.halved else wholes(groups)
    return _write(prepared, solved, groups, parts, tuning, before, salt, track, notice)


def _say_if_unknown(before: Answers, notice: Notice) -> None:
    """What a model does not know it cannot be made to forget, and goals are then met by doing nothing."""
    target = [answer for (group, _), answer in before.items() if group == "target"]
    known = sum(answer.exact for answer in target)
    if known < len(target) / 2:
        notice(
            f"the model answers {known} of the target's {len(target)} records rightly before the edit: there may be "
            "little to forget, or these are not the records that it learnt from"
        )


def problem_of(prepared: PreparedEdit, track: Track = silent, notice: Notice = warnings.warn) -> Problem:
    """The request as a solver sees it, with its statistics found or collected."""
    request = prepared.request
    statistics = obtain_statistics(
        prepared.loaded,
        prepared.hierarchy,
        prepared.counted,
        prepared.statistics,
        prepared.collection,
        alpha=request.settings.alpha,
        settings=request.collecting,
        keep=not request.dry_run,
        track=track,
        notice=notice,
    )
    return Problem(
        prepared.loaded,
        prepared.stored,
        prepared.hierarchy,
        prepared.split,
        statistics,
        request.settings,
        counted=frozenset(prepared.counted.positions),
        batch_tokens=prepared.collection.batch_tokens,
        track=track,
        notice=notice,
    )


def _write(
    prepared: PreparedEdit,
    solved: Solved,
    groups: Sequence[Group],
    parts: Sequence[Part],
    tuning: Tuning | None,
    before: Answers,
    salt: bytes,
    track: Track,
    notice: Notice,
) -> EditResult:
    """Write the edited checkpoint, ask it, and only then put it into place beside its receipt."""
    request, out = prepared.request, prepared.plan.out
    if out is None or prepared.plan.receipt is None:
        raise ChipError("this edit was planned as a dry run; prepare it again to write it")
    applying = Applying([replace(solved.edit, nodes=tuple(hashed_nodes(prepared.split.targets, salt)))])
    with _written(prepared, applying, out) as written:
        if written.recovered:
            notice(written.recovered)
        if applying.rounding.meant:
            notice(applying.rounding.described)
        proof = written.prove()
        table: tuple[Row, ...] = ()
        verdict: Verdict | None = None
        if request.verify:
            prepared.loaded.model.to("cpu")  # type: ignore[arg-type]  # an accelerator may not hold both
            again = load_model(Checkpoint(written.directory, unfinished=True), request.device, request.dtype)
            after = ask(again, groups, request.settings.batch_size, track, "asking the model after")
            table = rows(parts, before, after)
            verdict = judged(parts, before, after, request.tuning)
        result = EditResult(
            solved.sites,
            table,
            out,
            prepared.plan.receipt,
            request.edit_out,
            tuning=tuning,
            verdict=verdict,
            proof=proof,
        )
        beside: list[Path] = []
        try:
            write_receipt(
                prepared.plan.receipt,
                _receipt(prepared, applying.edits[0], result, proof, written.copied),
                request.sign,
            )
            beside.append(prepared.plan.receipt)
            if request.edit_out is not None:
                save_edits(applying.edits, request.edit_out)
                beside.append(request.edit_out)
            if request.plot is not None and tuning is not None:
                write_private(request.plot, plot_trials(tuning.trials, tuning.trials[tuning.chosen], tuning.goals))
                beside.append(request.plot)
            written.commit()
        except BaseException:
            for path in beside:
                path.unlink(missing_ok=True)
            raise
    return result


def _written(prepared: PreparedEdit, applying: Applying, out: Path) -> WrittenCheckpoint:
    request = prepared.request
    if request.in_place:
        return CheckpointInPlace(prepared.checkpoint, applying)
    return StagedCheckpoint(prepared.checkpoint, applying, out, force=request.force, link=request.link)


def default_output(model: str) -> Path:
    """`model-forgotten` beside the model; for a hub id, in the working directory."""
    path = Path(model).resolve() if Path(model).is_dir() and not Path(model).name else Path(model)
    return path.with_name(path.name + "-forgotten") if path.is_dir() else Path(path.name + "-forgotten")


def _refuse_in_place(request: EditRequest) -> None:
    """An edit in place has no output of its own."""
    for flag, given in {"--out": request.out is not None, "--link": request.link, "--force": request.force}.items():
        if request.in_place and given:
            raise UsageError(f"{flag} is about a new checkpoint and --in-place writes none; leave one of them out")


def _refuse_tuning(request: EditRequest) -> None:
    """What was asked of a search has to go together."""
    if request.tuning.tune and not request.verify:
        raise UsageError("--tune measures every edit that it tries, so it cannot go with --no-verify")
    if request.plot is not None and not request.searches:
        raise UsageError("--plot shows the edits that were tried; leave out --no-tune and --no-verify")
    if request.plot is not None and request.dry_run:
        raise UsageError("--plot writes a file and --dry-run writes nothing; leave one of them out")
    if request.plot is not None:
        refuse_plot(request.plot)


def _space(request: EditRequest, loaded: LoadedModel) -> Space:
    """What a search may change. Raises UsageError where a search was asked for and nothing is left to it."""
    if not request.searches:
        return Space(request.settings, ())
    space = space_of(request.settings, request.fixed, layer_count(loaded.sites))
    if request.tuning.tune and not space.axes:
        raise UsageError("--tune finds nothing to search: you set everything that it may change; leave a setting out")
    return space


def _receipt(prepared: PreparedEdit, edit: Edit, result: EditResult, proof: Proof, copied: str) -> dict[str, Any]:
    found = result.as_json()
    return {
        "action": "edit",
        **described([edit], proof, copied),
        "records": dict(prepared.plan.records),
        "sites": found["sites"],
        "verification": found["rows"],
        "tuning": found["tuning"],
        "verdict": found["verdict"],
    }
