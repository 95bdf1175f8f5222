"""`chip collect`: gather what every method may want, for all layers, so that later requests need not."""

import hashlib
import json
import sys
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from chip.collect import Statistics, Wanted
from chip.collect.fitting import Notice
from chip.collect.reuse import StatisticsSource, find_statistics
from chip.collect.team import Team, joined, own_device
from chip.errors import ChipError
from chip.files import refuse_foreign, refuse_unwritable
from chip.hierarchy import Hierarchy
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model, resolve_model
from chip.models.sites import Site
from chip.progress import Track, silent
from chip.records import read_records
from chip.settings import CollectSettings, EditSettings, parse_roles
from chip.workflow.statistics import Collection, CountedRecords, counted_records, obtain_statistics, plan_collection


@dataclass(frozen=True)
class CollectRequest:
    """Everything that `chip collect` was asked; docs/command-line.md describes each."""

    model: str
    data: Path
    out: Path
    settings: CollectSettings = field(default_factory=CollectSettings)
    sites: str = "language,projector"
    alpha: float = 0.3
    device: str = "auto"
    dtype: str = "auto"
    force: bool = False


@dataclass(frozen=True)
class PreparedCollection:
    """A collection that was checked and is ready to be carried out."""

    request: CollectRequest
    loaded: LoadedModel
    hierarchy: Hierarchy
    counted: CountedRecords
    source: StatisticsSource
    collection: Collection


def prepare_collection(
    request: CollectRequest, *, model: LoadedModel | None = None, records: Hierarchy | None = None
) -> PreparedCollection:
    """Read and check everything that a collection needs, and find what is there already. Writes nothing.

    model: the request's checkpoint as it is loaded already. records: those that stand for the request's data directory.
    """
    roles = parse_roles(request.sites)
    EditSettings(alpha=request.alpha)  # refuses what is no weight
    checkpoint, hierarchy = Checkpoint(resolve_model(request.model)), records or read_records(request.data)
    refuse_foreign(request.out)
    refuse_unwritable(request.out)
    if request.out.resolve().is_relative_to(checkpoint.directory.resolve()):
        raise ChipError(
            f"{request.out} lies inside {checkpoint.directory}; statistics hold node names, keep them outside"
        )
    loaded = model or load_model(checkpoint, own_device(request.device), request.dtype)
    counted = counted_records(hierarchy, checkpoint, loaded, request.settings)
    wanted = everything(loaded.sites, roles)
    source = find_statistics(request.out, counted.provenance, wanted, request.alpha, must_fit=False)
    if source.stranger and not request.force:
        raise ChipError(
            f"{request.out} holds other statistics ({source.stranger}); replace them with --force, or name another file"
        )
    collection = plan_collection(loaded, hierarchy, counted, source, request.settings)
    return PreparedCollection(request, loaded, hierarchy, counted, source, collection)


def carry_out_collection(
    prepared: PreparedCollection, track: Track = silent, notice: Notice = warnings.warn
) -> Statistics:
    """Collect and keep; what was at the output survives until the new statistics are whole.

    Where a launcher started several processes, each runs its share of the records, and the first has all and writes.
    """
    request = prepared.request
    with joined(prepared.loaded.device) as team:
        _agree(prepared, team)
        return obtain_statistics(
            prepared.loaded,
            prepared.hierarchy,
            prepared.counted,
            prepared.source,
            _agreed(prepared, team),
            alpha=request.alpha,
            settings=request.settings,
            keep=True,
            team=team,
            track=track,
            notice=notice,
        )


def _agree(prepared: PreparedCollection, team: Team) -> None:
    """Raise ChipError where processes that are to collect together were given different things."""
    source, request, device = prepared.source, prepared.request, prepared.loaded.device
    asked = [prepared.counted.provenance.digest, request.sites, request.alpha]
    team.agree(_digest(asked), device, "was given another model, data or settings than process 0: start them alike")
    found = [asdict(source.wanted), source.missing]
    team.agree(
        _digest(found), device, f"does not find at {request.out} what process 0 finds: it must be on a disk they share"
    )


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _agreed(prepared: PreparedCollection, team: Team) -> Collection:
    """The collection with sketches that the process with the least memory has room for: all must be of one shape."""
    wanted, collection = prepared.source.wanted, prepared.collection
    names = (*wanted.answer, *wanted.image)
    rows = team.least([collection.sketched.get(name, sys.maxsize) for name in names], prepared.loaded.device)
    sketched = {name: least for name, least in zip(names, rows, strict=True) if least < sys.maxsize}
    return replace(collection, sketched=sketched)


def everything(sites: tuple[Site, ...], roles: tuple[str, ...]) -> Wanted:
    """Pooled activations at the sites of the roles, and the moments that the other methods take."""
    present = {site.role for site in sites}
    if absent := [role for role in roles if role not in present and role != "projector"]:
        raise ChipError(f"--sites: chip knows no {absent[0]} sites of this model")
    return Wanted(
        pooled=tuple(site.name for site in sites if site.role in roles),
        answer=tuple(site.name for site in sites if site.writes),
        image=tuple(site.name for site in sites if site.role == "projector" and site.last),
    )
