"""`chip edit`: forget nodes and write the new checkpoint, with its receipt."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chip.collect.fitting import Notice
from chip.collect.reuse import StatisticsSource, find_statistics
from chip.collect.team import launched
from chip.edit import StagedCheckpoint, refuse_existing, save_edit
from chip.edit.receipt import hashed_nodes, read_salt, write_receipt
from chip.edit.writer import files_left_behind
from chip.errors import ChipError, UsageError
from chip.files import refuse_foreign
from chip.hierarchy import Hierarchy, Split
from chip.measure import audit_groups
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model, resolve_model
from chip.models.sites import StoredSite, stored_sites
from chip.plan import Plan, overlap_warnings
from chip.progress import Track, silent
from chip.records import read_records
from chip.records.digests import divide_images
from chip.settings import CollectSettings, EditSettings
from chip.solve.problem import Problem, SiteReport, Solved, chosen_sites, wanted
from chip.solve.solvers import solve
from chip.workflow.audit import Row, scores
from chip.workflow.statistics import (
    Collection,
    CountedRecords,
    counted_records,
    default_statistics,
    obtain_statistics,
    plan_collection,
)


@dataclass(frozen=True)
class EditRequest:
    """Everything that `chip edit` was asked; docs/command-line.md describes each."""

    model: str
    data: Path
    forget: tuple[str, ...]
    settings: EditSettings = field(default_factory=EditSettings)
    out: Path | None = None
    statistics: Path | None = None
    receipt: Path | None = None
    edit_out: Path | None = None
    collecting: CollectSettings = field(default_factory=CollectSettings)
    device: str = "auto"
    dtype: str = "auto"
    verify: bool = True
    verify_records: int = 200
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True)
class EditResult:
    """What an edit came to: the report of each site, the table (empty without verification), and what was written."""

    sites: tuple[SiteReport, ...]
    rows: tuple[Row, ...]
    out: Path | None
    receipt: Path | None
    edit: Path | None

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class PreparedEdit:
    """An edit that was checked and is ready to be carried out."""

    request: EditRequest
    checkpoint: Checkpoint
    loaded: LoadedModel
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
    directory = resolve_model(request.model)
    out = request.out or default_output(request.model)
    hierarchy = read_records(request.data)
    split = hierarchy.split([hierarchy.resolve(name) for name in request.forget])
    if not request.dry_run:
        refuse_existing(out, directory, force=request.force)
        _refuse_inside(out, directory, request)
    checkpoint = Checkpoint(directory)
    loaded = load_model(checkpoint, request.device, request.dtype)
    sites = chosen_sites(loaded.sites, request.settings)
    obstacle = divide_images(hierarchy, split).obstacle
    if request.settings.method == "oblique" and request.settings.keys == "image" and obstacle:
        raise ChipError(f"{obstacle}; use --keys answer")
    stored = stored_sites(loaded.model, checkpoint, sites)
    counted = counted_records(hierarchy, checkpoint, loaded, request.collecting)
    source = find_statistics(
        request.statistics or default_statistics(request.model, out),
        counted.provenance,
        wanted(loaded.sites, request.settings),
        request.settings.alpha,
        must_fit=request.statistics is not None and request.statistics.exists(),
    )
    collection = plan_collection(loaded, hierarchy, counted, source, request.collecting)
    plan = _plan(request, checkpoint, loaded, stored, hierarchy, split, source, collection, out)
    return PreparedEdit(request, checkpoint, loaded, stored, hierarchy, split, counted, source, collection, plan)


def carry_out(prepared: PreparedEdit, track: Track = silent, notice: Notice = warnings.warn) -> EditResult:
    """Collect, solve, write, verify. On any failure nothing is left at the output."""
    request, loaded = prepared.request, prepared.loaded
    groups = audit_groups(prepared.hierarchy, prepared.split, limit=request.verify_records, seed=request.settings.seed)
    verify, size = request.verify and not request.dry_run, request.settings.batch_size
    salt = b"" if request.dry_run else read_salt()
    before = scores(loaded, groups, size, track, "asking the model before") if verify else []
    statistics = obtain_statistics(
        loaded,
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
    solved = solve(
        Problem(
            loaded,
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
    )
    if request.dry_run:
        return EditResult(solved.sites, (), None, None, None)
    out = prepared.plan.out
    if out is None or prepared.plan.receipt is None:
        raise ChipError("this edit was planned as a dry run; prepare it again to write it")
    with StagedCheckpoint(prepared.checkpoint, solved.edit, out, force=request.force) as staged:
        rows: tuple[Row, ...] = ()
        edited = Checkpoint(staged.directory)
        if verify:
            loaded.model.to("cpu")  # type: ignore[arg-type]  # makes room: an accelerator may not hold both
            after = scores(
                load_model(edited, request.device, request.dtype), groups, size, track, "asking the model after"
            )
            rows = tuple(Row(g.name, g.of, b, a) for g, b, a in zip(groups, before, after, strict=True))
        receipt = _receipt(prepared, solved, rows, edited.digest, salt)
        written: list[Path] = []
        try:
            write_receipt(prepared.plan.receipt, receipt)
            written.append(prepared.plan.receipt)
            if request.edit_out is not None:
                save_edit(solved.edit, request.edit_out)
                written.append(request.edit_out)
            staged.commit()
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
    return EditResult(solved.sites, rows, out, prepared.plan.receipt, request.edit_out)


def default_output(model: str) -> Path:
    """`model-forgotten` beside the model; for a hub id, in the working directory."""
    path = Path(model).resolve() if Path(model).is_dir() and not Path(model).name else Path(model)
    return path.with_name(path.name + "-forgotten") if path.is_dir() else Path(path.name + "-forgotten")


def _plan(
    request: EditRequest,
    checkpoint: Checkpoint,
    loaded: LoadedModel,
    stored: dict[str, StoredSite],
    hierarchy: Hierarchy,
    split: Split,
    source: StatisticsSource,
    collection: Collection,
    out: Path,
) -> Plan:
    groups = {name: len(getattr(split, name)) for name in ("target", "siblings", "shared", "rest")}
    notices = [source.notice] if source.notice else []
    for name in (name for name in request.forget if (name,) in hierarchy.nodes and hierarchy.namesakes(name)):
        others = ", ".join("/".join(node) for node in hierarchy.namesakes(name))
        notices.append(f"{name} is taken as the whole path; other nodes bear the name too: {others}")
    if not loaded.family.known:
        notices.append(f"the family {loaded.family.name!r} is not in chip's table: its sites were found by name")
    if not loaded.prompts.has_chat_template:
        notices.append("the model has no chat template: records are shown as the question, a line break, the answer")
    if request.settings.method == "oblique":
        notices += _oblique_notices(request.settings, loaded, hierarchy, split)
    tensors = [tensor for site in stored.values() for tensor in (site.weight, site.bias) if tensor is not None]
    if request.settings.method == "oblique":
        tensors = [site.weight for site in stored.values()]
    return Plan(
        model=checkpoint.directory,
        family=loaded.family.name,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        data=request.data,
        targets=tuple("/".join(node) for node in split.targets),
        records=groups,
        method=request.settings.method,
        settings=request.settings.described(),
        sites=tuple(stored),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        out=None if request.dry_run else out,
        statistics=f"{source.path} ({_fate(request, source)})",
        collecting="" if source.found is not None and not source.missing else collection.described,
        receipt=None if request.dry_run else request.receipt or out.with_name(out.name + ".receipt.json"),
        left_behind=tuple(files_left_behind(checkpoint)),
        notices=tuple(notices),
        warnings=tuple(overlap_warnings(hierarchy, split)),
    )


def _oblique_notices(settings: EditSettings, loaded: LoadedModel, hierarchy: Hierarchy, split: Split) -> list[str]:
    notices = []
    obstacle = divide_images(hierarchy, split).obstacle if loaded.prompts.sees else "the model sees no images"
    if settings.keys == "both" and obstacle:
        notices.append(f"keys are taken at the answers alone: {obstacle}")
    blind = sum(not hierarchy.records[i].images for i in split.target)
    if settings.toward != "mean" and settings.keys != "image" and blind:
        notices.append(f"{blind} of the target's records show no image: their answers are sent toward the mean")
    return notices


def _refuse_inside(out: Path, directory: Path, request: EditRequest) -> None:
    """What says more than a released checkpoint may say is never written into one."""
    flags = {"--receipt": request.receipt, "--edit-out": request.edit_out, "--statistics": request.statistics}
    for flag, path in flags.items():
        for checkpoint in (out, directory):
            if path is not None and path.resolve().is_relative_to(checkpoint.resolve()):
                raise ChipError(f"{flag} {path} lies inside {checkpoint}; it must stay outside of what is released")
        if path is not None:
            refuse_foreign(path)


def _fate(request: EditRequest, source: StatisticsSource) -> str:
    if source.found is not None and not source.missing:
        return "found"
    return "collected, not kept" if request.dry_run else "to be collected"


def _receipt(prepared: PreparedEdit, solved: Solved, rows: Sequence[Row], digest: str, salt: bytes) -> dict[str, Any]:
    return {
        "method": solved.edit.method,
        "settings": dict(solved.edit.settings),
        "nodes": hashed_nodes(prepared.split.targets, salt),
        "records": dict(prepared.plan.records),
        "base_digest": prepared.checkpoint.digest,
        "edited_digest": digest,
        "tensors": dict(solved.edit.base),
        "sites": [asdict(report) for report in solved.sites],
        "verification": [asdict(row) for row in rows],
    }
