"""What a solver is given, what it asks to be collected, and what it yields."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from chip.collect import BATCH_TOKENS, Statistics, Wanted
from chip.collect.fitting import Notice
from chip.edit import Change, Edit
from chip.errors import ChipError, UsageError
from chip.hierarchy import Hierarchy, NodePath, Record, Split
from chip.models.loading import LoadedModel
from chip.models.matrix import Matrix
from chip.models.sites import Site, StoredSite, choose_layers, layer_count
from chip.progress import Track, silent
from chip.settings import EditSettings, TuningSettings
from chip.solve.bases import MetricBases
from chip.solve.memo import Memo

_LAYERED = {"language", "attention"}
_CHIP_LAYERS_OF_28 = 6
"""The paper edits layers 22–27 of 28; other models their last ⌈6 L / 28⌉ of L."""


@dataclass(frozen=True)
class Course:
    """How a training runs.

    goals: at which it may end early. salt: the owner's, under which noise is drawn. identity: a digest of what it is a
    training of. data: the data directory; forgotten: nodes in it that count for nothing. kept, save_every: where its
    progress is kept (nowhere where None) and how often. log: where its losses go. keep_last_good: end with the last
    good state, not an error, where it diverges.
    """

    goals: TuningSettings = field(default_factory=TuningSettings)
    salt: bytes = b""
    identity: str = ""
    data: Path | None = None
    forgotten: tuple[NodePath, ...] = ()
    kept: Path | None = None
    save_every: float = 60.0
    log: Path | None = None
    keep_last_good: bool = False


@dataclass(frozen=True)
class Problem:
    """One request: a model, its records divided, the statistics of all that `counted` names, and how to edit.

    Only what was counted may be subtracted from the statistics. `stored` may hold more sites than the settings choose:
    all those that other settings of the same request may choose, which then share the memo. `bases` are factorisations
    of these statistics that several requests share. Where the model carries earlier edits, `original` makes it for a
    while what the statistics were collected on: what is to be kept is measured there, so that drift does not add up.
    `turn` counts those edits: at every turn other records are drawn to be held, so that each has its own.
    `parameters` are the stored tensors, by the parameter's name, of a method that trains them as they are; `course` is
    what only methods that train need to know.
    """

    loaded: LoadedModel
    stored: Mapping[str, StoredSite]
    hierarchy: Hierarchy
    split: Split
    statistics: Statistics
    settings: EditSettings
    counted: frozenset[int]
    batch_tokens: int = BATCH_TOKENS
    track: Track = silent
    notice: Notice = warnings.warn
    bases: MetricBases | None = None
    original: Callable[[], AbstractContextManager[None]] = nullcontext
    turn: int = 0
    memo: Memo = field(default_factory=Memo)
    parameters: Mapping[str, Matrix] = field(default_factory=dict)
    course: Course = field(default_factory=Course)

    def records(self, positions: Sequence[int]) -> list[Record]:
        return [self.hierarchy.records[i] for i in positions]

    def among_counted(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Those of the positions that the statistics count."""
        return tuple(i for i in positions if i in self.counted)


@dataclass(frozen=True)
class SiteReport:
    """What became of one site: the rank of its change, the change relative to the weight, and but for CHIP the
    predicted distortion of what is kept and the strength used; for the oblique projection, how far a sketched moment
    may have put that off. Rank 0: left alone, for `reason`."""

    site: str
    rank: int
    relative_change: float
    distortion: float | None = None
    strength: float | None = None
    reason: str = ""
    uncertainty: float | None = None


@dataclass(frozen=True)
class Solved:
    """An edit with a report on each site that was looked at, and on its training where there was one."""

    edit: Edit
    sites: tuple[SiteReport, ...]
    training: Mapping[str, Any] = field(default_factory=dict)


def chosen_sites(sites: Sequence[Site], settings: EditSettings) -> tuple[Site, ...]:
    """The sites that a method edits, in forward order.

    CHIP: those of the roles in its settings, of its layers where they are the language model's. Counterpart: of its
    layers, what writes into the residual stream. Oblique: with answer keys the last MLP linear of its layers, with
    image keys the projector's last linear; `both` is answer keys alone where there is no projector. Methods that train:
    with LoRA the targets of its layers, otherwise none. Raises ChipError where the model has no site of a role that was
    asked for; a text-only model needs no projector beside other roles.
    """
    layers = choose_layers(sites, settings.layers)
    if settings.trains:
        return lora_sites(sites, settings) if settings.way == "lora" else ()
    if settings.method == "chip":
        if not settings.roles:
            raise UsageError("--sites none leaves --method chip nothing to edit")
        if settings.layers is None:
            layers = layers[-math.ceil(_CHIP_LAYERS_OF_28 * layer_count(sites) / 28) :]
        chosen = [s for s in sites if s.role in settings.roles and (s.role not in _LAYERED or s.layer in layers)]
        absent = [role for role in settings.roles if all(site.role != role for site in sites)]
        if absent and (absent != ["projector"] or not chosen):
            raise ChipError(f"--sites {settings.sites}: chip knows no {absent[0]} sites of this model")
        return tuple(chosen)
    if settings.method == "counterpart":
        chosen = [site for site in sites if site.writes and site.layer in layers]
        if not chosen:
            raise ChipError(f"--layers {settings.layers}: nothing there writes into the residual stream by itself")
        return tuple(chosen)
    image = [site for site in sites if site.role == "projector" and site.last]
    if settings.keys == "image" and not image:
        raise ChipError("--keys image: this model has no vision-language projector; use --keys answer")
    answer = [site for site in sites if site.role == "language" and site.last and site.layer in layers]
    return (*(image if settings.keys != "answer" else ()), *(answer if settings.keys != "image" else ()))


def lora_sites(sites: Sequence[Site], settings: EditSettings) -> tuple[Site, ...]:
    """The sites that LoRA is put on: the language model's of the chosen layers, by the names of their linear layers;
    by default those that write into the residual stream. Raises ChipError where a name matches none."""
    layers = choose_layers(sites, settings.layers)
    possible = [site for site in sites if site.role in _LAYERED and site.layer in layers and not site.transposed]
    if settings.lora_targets is None:
        chosen = [site for site in possible if site.writes]
        names = {site.linear for site in chosen}
    else:
        names = {piece.strip() for piece in settings.lora_targets.split(",")}
        chosen = [site for site in possible if site.linear in names]
    missing = sorted(names - {site.linear for site in chosen})
    if missing or not chosen:
        there = ", ".join(sorted({site.linear for site in possible})) or "none at all"
        wanted_name = f"{missing[0]!r}" if missing else "anything"
        raise ChipError(f"--lora-targets: no linear layer of these layers is called {wanted_name}; there are {there}")
    return tuple(chosen)


def wanted(sites: Sequence[Site], settings: EditSettings) -> Wanted:
    """What has to be collected over all records before a request can be solved."""
    if settings.trains:
        return Wanted()
    names = tuple(site.name for site in chosen_sites(sites, settings))
    if settings.method == "chip":
        return Wanted(pooled=names)
    projector = {site.name for site in sites if site.role == "projector"}
    return Wanted(
        answer=tuple(name for name in names if name not in projector),
        image=tuple(name for name in names if name in projector),
    )


def as_edit(problem: Problem, changes: Sequence[Change], reports: Sequence[SiteReport]) -> Solved:
    """The solver's yield. Raises ChipError where no site has anything to remove."""
    if not changes and problem.settings.trains:
        raise ChipError("the training has moved no parameter; give it more --steps or a larger --learning-rate")
    if not changes:
        raise ChipError(
            "no site has anything to remove: at every one the target differs in nothing from what is retained"
        )
    tensors = {s.name: s for one in problem.stored.values() for s in (one.weight, one.bias) if s is not None}
    tensors |= {one.name: one for one in problem.parameters.values()}
    base = {one.tensor: tensors[one.tensor].digest() for one in changes}
    settings = problem.settings
    return Solved(Edit(settings.method, settings.described(), tuple(changes), base), tuple(reports))


@contextmanager
def weights_put_back(model: nn.Module, sites: Sequence[Site]) -> Iterator[None]:
    """Put the sites' weights back on the way out, whatever was tried on them within."""
    kept = {site: site.weight(model).clone() for site in sites}
    try:
        yield
    finally:
        for site, weight in kept.items():
            site.weight(model).copy_(weight)
