"""The counterpart method, the default: the target's answers are made to go on as somebody else's would.

Every answer token of the target has a counterpart in a retained answer (`chip.solve.counterparts`). At each site, in
forward order, the smallest change is found that makes what leaves the site's block at the target's tokens what the
unedited model left at their counterparts, and that brings what leaves it at retained tokens back to what it was before
any site was changed. What the sites before did wrong is thus made good by those after. Retained tokens that are no
longer surely the likeliest once all sites are changed weigh more in another round, from the start.

The closed form is docs/mathematics.md, "Counterparts"; nothing is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chip.collect import (
    Flow,
    SecondMoments,
    collect_parts,
    encode_all,
    margins,
    run_in_step,
    without,
)
from chip.collect.grouping import EncodedGroup, in_order
from chip.edit import Change
from chip.hierarchy import shape
from chip.models.sites import Site
from chip.solve.changes import redirected, weight_change
from chip.solve.counterparts import Answered, find_counterparts
from chip.solve.held import donors, held_records
from chip.solve.least_change import SiteChange, Weights, solve_site
from chip.solve.problem import Problem, SiteReport, Solved, as_edit, chosen_sites, weights_put_back
from chip.solve.room import refuse_held

_SURE = 4.0
"""A retained token slips where its logit exceeds all others by less than this, and by less than before the edit."""

_ROUNDING = 32.0
"""Margins that fell by less than so many units of rounding, of logits of that size, have not fallen."""


@dataclass(frozen=True)
class Tokens:
    """The answer tokens of a request, N in number: the target's T first, then those of the held records.

    compared: (N - T,), which of the held ones are the comparison's. counterparts: (T,), each a place among the N.
    differs: (T,), whether the counterpart is another token. records: (N,), the record that each is of.
    """

    target: int
    compared: Tensor
    counterparts: Tensor
    differs: Tensor
    records: Tensor

    @property
    def held(self) -> int:
        return len(self.compared)


@dataclass(frozen=True)
class Unedited:
    """What a request takes from the unedited model, whatever the strength: its records, encoded, and their tokens; by
    site, the moments of the retained records that are not held, and what shall leave the site (N, D); by how much each
    answer token is the likeliest (N,); and, where the model carries earlier edits, the weights without them."""

    groups: Sequence[EncodedGroup]
    tokens: Tokens
    unheld: Mapping[str, SecondMoments | None]
    aims: Mapping[str, Tensor]
    margins: Tensor
    weights: Mapping[str, Tensor]


def solve_counterpart(problem: Problem) -> Solved:
    """Counterparts at what writes into the residual stream. The model's weights are as before when it returns."""
    loaded, settings = problem.loaded, problem.settings
    sites = chosen_sites(loaded.sites, settings)
    before = problem.memo.once(("counterparts", settings.held, settings.seed), lambda: unedited(problem))
    weights = _weights(problem, before.tokens, before.unheld[sites[0].name])
    best: tuple[int, Mapping[str, SiteChange]] | None = None
    for number in range(settings.rounds + 1):
        with weights_put_back(loaded.model, sites):
            changes, now = _round(problem, sites, before, weights, number)
        slipping = _slipping(before.margins, now, before.tokens, torch.finfo(loaded.dtype).eps)
        if best is None or int(slipping.sum()) < best[0]:
            best = int(slipping.sum()), changes
        if not slipping.any():
            break
        weights = weights.raised(slipping.to(weights.heavier.device))
    assert best is not None
    solved: list[Change] = []
    reports: list[SiteReport] = []
    for site in sites:
        one, stored = best[1][site.name], problem.stored[site.name]
        derivation = redirected(stored, site.weight(loaded.model), one.keys)
        solved.append(weight_change(stored, one.left, one.right, derivation=derivation))
        reports.append(SiteReport(site.name, one.rank, one.relative, one.distortion, settings.fixed_strength))
    return as_edit(problem, solved, reports)


def unedited(problem: Problem) -> Unedited:
    """Choose the records that are held, and run them and the target's through the model as it is."""
    sites = [one.site for one in problem.stored.values() if one.site.writes]
    held = held_records(problem, problem.settings.held)
    groups = encode_all(problem.loaded, problem.records((*problem.split.target, *held)))
    tokens = _tokens(problem, held, groups)
    refuse_held(problem, sites, len(tokens.records))
    aims: dict[str, Tensor] = {}

    def note(site: Site, flow: Flow) -> None:
        aims[site.name] = flow.leaving
        flow.leaving[: tokens.target] = flow.leaving[tokens.counterparts.to(flow.leaving.device)]

    with problem.original():
        states = run_in_step(problem.loaded, groups, sites, problem.batch_tokens, note)
        unheld = _unheld(problem, sites, held)
        moved = [site for site in sites if problem.turn and unheld[site.name] is not None]
        weights = {site.name: site.weight(problem.loaded.model).clone() for site in moved}
    return Unedited(groups, tokens, unheld, aims, margins(problem.loaded, groups, states), weights)


def _tokens(problem: Problem, held: Sequence[int], groups: Sequence[EncodedGroup]) -> Tokens:
    answers = [tuple(one.answer_ids.tolist()) for one in in_order(groups)]
    sizes = torch.tensor([len(answer) for answer in answers])
    targets = problem.records(problem.split.target)
    ranks = donors(problem, held)
    answered = [
        Answered(number, shape(record), record.path[-1], answers[len(targets) + number], ranks[position])
        for number, (position, record) in enumerate(zip(held, problem.records(held), strict=True))
    ]
    found = find_counterparts(targets, answers[: len(targets)], answered)
    starts = sizes.cumsum(0) - sizes
    own = [token for answer in answers[: len(targets)] for token in answer]
    compared = set(problem.split.comparison)
    per_record = torch.tensor([position in compared for position in held], dtype=torch.bool)
    return Tokens(
        target=len(own),
        compared=per_record.repeat_interleave(sizes[len(targets) :]),
        counterparts=torch.tensor([int(starts[len(targets) + one.number]) + one.place for one in found]),
        differs=torch.tensor(
            [answered[one.number].tokens[one.place] != token for one, token in zip(found, own, strict=True)]
        ),
        records=torch.arange(len(answers)).repeat_interleave(sizes),
    )


def _unheld(problem: Problem, sites: Sequence[Site], held: Sequence[int]) -> dict[str, SecondMoments | None]:
    """By site, the moments of the retained records that are not held, unedited model; None where there are none."""
    running = problem.among_counted(sorted((*problem.split.target, *held)))
    if len(running) == len(problem.counted):
        return {site.name: None for site in sites}
    totals = {site.name: problem.statistics.answer[site.name] for site in sites}
    parts = collect_parts(
        problem.loaded,
        problem.records(running),
        totals,
        batch_tokens=problem.batch_tokens,
        track=problem.track,
        doing="running the target's and the held records",
        notice=problem.notice,
    )
    return {name: without(total, parts[name]) for name, total in totals.items()}


def _weights(problem: Problem, tokens: Tokens, unheld: SecondMoments | None) -> Weights:
    """1/n for each of the n retained tokens, and w/m more for each of the m comparison tokens that are held; β/T for
    each of the target's."""
    settings, strength = problem.settings, problem.settings.fixed_strength
    assert strength is not None  # a budget bears on the oblique method alone
    retained = tokens.held + (0 if unheld is None else unheld.count)
    retain = torch.full((tokens.held,), 1 / retained, dtype=torch.float64)
    if tokens.compared.any():
        retain[tokens.compared] += settings.sibling_weight / int(tokens.compared.sum())
    target = torch.full((tokens.target,), strength / tokens.target, dtype=torch.float64)
    return Weights(retain, target, torch.ones(tokens.target + tokens.held, dtype=torch.float64))


def _round(
    problem: Problem, sites: Sequence[Site], before: Unedited, weights: Weights, number: int
) -> tuple[dict[str, SiteChange], Tensor]:
    """Change one site after the other in the live model, each on what those before it have left; and the margins (N,)
    that come of it."""
    loaded, changes = problem.loaded, dict[str, SiteChange]()
    steps = iter(problem.track(sites, f"solving site by site, round {number + 1}"))

    def change(site: Site, flow: Flow) -> None:
        live = site.weight(loaded.model)
        lacking = before.aims[site.name] - flow.leaving
        unheld = before.unheld[site.name]
        weight, base = live.to(flow.given), before.weights.get(site.name)
        moved = None if base is None else weight - base.to(weight)
        settings = problem.settings
        found = solve_site(weight, flow.given, lacking, weights, unheld, settings.own_ridge, settings.gain, moved)
        live.copy_(weight + found.delta)
        changes[site.name] = found.to("cpu")
        next(steps)

    states = run_in_step(loaded, before.groups, sites, problem.batch_tokens, change)
    next(steps, None)
    return changes, margins(loaded, before.groups, states)


def _slipping(before: Tensor, now: Tensor, tokens: Tokens, unit: float) -> Tensor:
    """(N,), the held tokens that were the likeliest and are no longer surely so, and those of the target by which an
    answer that is still given in full could be told apart. unit: the model's unit of rounding."""
    slipping = (before > 0) & (now < before.clamp(max=_SURE) - _ROUNDING * unit)
    wrong = (now[: tokens.target] < 0).to(torch.int64)
    records = tokens.records[: tokens.target].to(wrong.device)
    missed = torch.zeros(int(records[-1]) + 1, dtype=torch.int64, device=wrong.device).index_add_(0, records, wrong)
    slipping[: tokens.target] = (missed[records] == 0) & tokens.differs.to(wrong.device)
    return slipping
