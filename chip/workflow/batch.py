"""`chip batch`: many requests on one model, which is loaded once, from one statistics file.

Each request ends in a checkpoint of its own or, cumulatively, all of them in one. A request that fails stops no other
one, and one that is finished is not done again: its receipt says of what it is the outcome.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from chip.collect import Wanted
from chip.edit.journal import recover_model
from chip.edit.outputs import refuse_inside
from chip.edit.signature import private_key
from chip.errors import ChipError, UsageError
from chip.files import refuse_unwritable
from chip.hierarchy import NodePath
from chip.models.checkpoint import Checkpoint
from chip.models.folders import resolve_model
from chip.models.loading import load_model
from chip.models.sites import Site, StoredSite, stored_sites
from chip.records import read_records
from chip.settings import CollectSettings, EditSettings, TuningSettings
from chip.solve.problem import chosen_sites, wanted
from chip.workflow.edit import files_beside, refuse_request, refuse_several
from chip.workflow.opened import Opened, Supply, forgotten_before, open_records, supply
from chip.workflow.outcome import Outcome
from chip.workflow.prepared import space_for
from chip.workflow.request import EditRequest
from chip.workflow.requests import Asked, read_requests
from chip.workflow.solvers import refuse_unready
from chip.workflow.statistics import default_statistics

MODEL, LEDGER, SUMMARY = "model", "ledger.json", "summary.json"
_RESERVED = (MODEL, LEDGER, SUMMARY)

Tell = Callable[[Outcome], None]


@dataclass(frozen=True)
class BatchRequest:
    """Everything that `chip batch` was asked; docs/command-line.md describes each."""

    model: str
    requests: Path
    data: Path
    out_dir: Path
    cumulative: bool = False
    jobs: int = 1
    statistics: Path | None = None
    forgotten: tuple[Path, ...] = ()
    forgotten_nodes: tuple[str, ...] = ()
    collecting: CollectSettings = field(default_factory=CollectSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    device: str = "auto"
    dtype: str = "auto"
    verify: bool = True
    verify_records: int = 200
    force: bool = False
    link: bool = False
    sign: Path | None = None

    def edit(self, asked: Asked) -> EditRequest:
        """One of its requests as `chip edit` would be given it."""
        return EditRequest(
            model=self.model,
            data=self.data,
            forget=asked.forget,
            settings=asked.settings,
            out=self.out_dir / asked.name,
            statistics=self.statistics,
            receipt=self.out_dir / f"{asked.name}.receipt.json",
            edit_out=self.out_dir / f"{asked.name}.edit.safetensors",
            forgotten=self.forgotten,
            forgotten_nodes=self.forgotten_nodes,
            collecting=self.collecting,
            tuning=self.tuning,
            fixed=asked.fixed,
            device=self.device,
            dtype=self.dtype,
            verify=self.verify,
            verify_records=self.verify_records,
            force=self.force,
            link=self.link,
            sign=self.sign,
        )


@dataclass(frozen=True)
class PreparedBatch:
    """Requests that were read and checked, beside the model and the records that all of them share.

    stored: every site that any of them may choose. failed: by line, what refused a request before anything ran.
    """

    request: BatchRequest
    asked: tuple[Asked, ...]
    opened: Opened
    stored: dict[str, StoredSite]
    supply: Supply
    alpha: float
    failed: dict[int, str]

    def targets(self, asked: Asked) -> list[NodePath]:
        """The nodes that a request names, among all records."""
        return [self.opened.hierarchy.resolve(name) for name in asked.forget]


def prepare_batch(request: BatchRequest, asked: tuple[Asked, ...] | None = None) -> PreparedBatch:
    """Read and check everything that a batch needs. Writes nothing. asked: requests that were read before."""
    refuse_several("chip batch")
    if request.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    if request.cumulative and request.jobs > 1:
        raise UsageError("--cumulative solves every request on what those before it have left; leave out --jobs")
    asked = asked or read_requests(request.requests, _RESERVED)
    directory, hierarchy = resolve_model(request.model), read_records(request.data)
    out_dir = request.out_dir.resolve()
    if out_dir.is_relative_to(directory.resolve()):
        raise ChipError(f"--out-dir {request.out_dir} lies inside {directory}; nothing but weights belongs there")
    if request.out_dir.exists() and not request.out_dir.is_dir():
        raise ChipError(f"--out-dir {request.out_dir} is a file; name a directory")
    refuse_unwritable(request.out_dir / SUMMARY)
    edits = {one.line: request.edit(one) for one in asked}
    for edit in edits.values():
        refuse_request(edit)
        refuse_inside(files_beside(edit), (request.out_dir / MODEL if edit.out is None else edit.out, directory))
    if request.sign is not None:
        private_key(request.sign)
    recover_model(directory)
    checkpoint = Checkpoint(directory)
    forgotten = forgotten_before(hierarchy, checkpoint, request.forgotten, request.forgotten_nodes)
    loaded = load_model(checkpoint, request.device, request.dtype)
    opened = open_records(hierarchy, checkpoint, loaded, request.collecting, forgotten)
    failed: dict[int, str] = {}
    widest: dict[int, Wanted] = {}
    sites: dict[str, Site] = {}
    for one in asked:
        try:
            refuse_unready(one.settings)
            opened.left.split([hierarchy.resolve(name) for name in one.forget])
            space = space_for(edits[one.line], loaded)
            chosen_sites(loaded.sites, one.settings)
            if request.cumulative and one.settings.trains and one.settings.way == "full":
                raise ChipError("a cumulative batch keeps a chain of linear layers alone; train with --train lora")
            sites |= {site.name: site for site in chosen_sites(loaded.sites, space.widest)}
            widest[one.line] = wanted(loaded.sites, space.widest)
        except ChipError as problem:
            failed[one.line] = str(problem)
    if not widest:
        raise ChipError(f"none of the {len(asked)} requests can be carried out; the first: {failed[asked[0].line]}")
    alpha = _alpha(asked, widest)
    supplied = supply(
        opened,
        request.statistics or default_statistics(request.model, request.out_dir / MODEL),
        reduce(Wanted.__or__, widest.values()),
        alpha,
        request.collecting,
        must_fit=request.statistics is not None and request.statistics.exists(),
    )
    stored = stored_sites(loaded.model, checkpoint, sites.values())
    return PreparedBatch(request, asked, opened, stored, supplied, alpha, failed)


def _alpha(asked: Sequence[Asked], wanted_by: Mapping[int, Wanted]) -> float:
    """The weight of image tokens in pooled sums: one for all requests that take any.

    Raises ChipError where two want different ones, since statistics hold one.
    """
    pooling = [one for one in asked if one.line in wanted_by and wanted_by[one.line].pooled]
    if not pooling:
        return EditSettings().alpha
    if other := next((one for one in pooling if one.settings.alpha != pooling[0].settings.alpha), None):
        raise ChipError(
            f"the requests on lines {pooling[0].line} and {other.line} have different alphas, and statistics hold one; "
            "put them into two batches"
        )
    return pooling[0].settings.alpha
