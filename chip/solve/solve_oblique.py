"""A request solved by oblique projection: image keys at the projector, then answer keys layer by layer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from chip.collect import answer_counts, answer_inputs, encode_all
from chip.collect.grouping import EncodedGroup
from chip.edit import Change
from chip.errors import ChipError
from chip.models.sites import Site
from chip.records.digests import divide_images
from chip.solve import oblique
from chip.solve.changes import redirected, weight_change
from chip.solve.image_keys import image_keys
from chip.solve.metric import Metric
from chip.solve.problem import Problem, SiteReport, Solved, as_edit, chosen_sites, weights_put_back
from chip.solve.refresh import Refresher
from chip.solve.retained import Retained, metric_of, retained_answers
from chip.solve.room import refuse_too_large
from chip.solve.unknown import unknown_outputs


def solve_oblique(problem: Problem) -> Solved:
    """Oblique projection: image keys at the projector first where asked for, then answer keys, layer by layer.

    Moments and aims are those of the unedited model; after each site only the target's own records run again, and those
    that refresh the moments where that is asked for.
    """
    sites = chosen_sites(problem.loaded.sites, problem.settings)
    image_sites = [site for site in sites if site.role == "projector"]
    answer_sites = [site for site in sites if site.role == "language"]
    refuse_too_large(problem, answer_sites, sum(answer_counts(_encoded_target(problem))) if answer_sites else 0)
    refresher = Refresher(problem) if problem.settings.refresh and answer_sites else None
    kept, aims = _moments_and_aims(problem) if answer_sites else ({}, {})
    changes: list[Change] = []
    reports: list[SiteReport] = []
    with weights_put_back(problem.loaded.model, sites):
        for site in image_sites:
            reason = problem.memo.once("obstacle", lambda: divide_images(problem.hierarchy, problem.split).obstacle)
            if reason and problem.settings.keys == "image":
                raise ChipError(f"{reason}; use --keys answer")
            if reason:
                reports.append(SiteReport(site.name, 0, 0.0, reason=reason))
            else:
                _apply(problem, site, _solve_images(problem, site), changes, reports)
        for site in problem.track(answer_sites, "solving site by site"):
            keys = _answer_keys(problem, site, edited=bool(changes))
            weight = site.weight(problem.loaded.model).to(keys.dtype)
            retained = kept[site.name]
            toward_mean = (weight @ retained.mean.to(weight)).expand(len(keys), -1)
            unknown, shown = aims.get(site.name, (toward_mean, torch.zeros(len(keys), 1, dtype=torch.bool)))
            aim = torch.where(shown.to(unknown.device), unknown, toward_mean)
            metric = None if refresher is None else refresher.metric(site, retained.total, weight)
            solution = _solve_site(problem, weight, keys, aim, metric or _metric(problem, retained, len(keys), weight))
            if problem.settings.toward == "beyond":
                solution = solution.enlarged(problem.settings.largest_overshoot)
            _apply(problem, site, solution, changes, reports)
    return as_edit(problem, changes, reports)


def _apply(
    problem: Problem, site: Site, solution: oblique.Solution, changes: list[Change], reports: list[SiteReport]
) -> None:
    """Write a solution into the live model, so that the sites after it see it, and note it down."""
    weight = site.weight(problem.loaded.model)
    before = weight.to(solution.left.dtype, copy=True)
    weight.copy_(before + solution.delta)
    relative = float(solution.delta.norm() / before.norm())
    rank = min(solution.left.shape)
    stored = problem.stored[site.name]
    derivation = None if solution.keys is None else redirected(stored, before, solution.keys)
    changes.append(weight_change(stored, solution.left, solution.right, derivation=derivation))
    reports.append(
        SiteReport(site.name, rank, relative, solution.distortion, solution.strength, uncertainty=solution.uncertainty)
    )


def _metric(problem: Problem, retained: Retained, keys: int, like: Tensor) -> Metric:
    settings = problem.settings
    return metric_of(retained, keys, settings.sibling_weight, settings.own_ridge, like, problem.bases)


def _solve_site(problem: Problem, weight: Tensor, keys: Tensor, aims: Tensor, metric: Metric) -> oblique.Solution:
    settings = problem.settings
    return oblique.solve_site(
        weight, keys, aims, metric, strength=settings.fixed_strength, budget=settings.retain_budget
    )


def _moments_and_aims(
    problem: Problem,
) -> tuple[dict[str, Retained], dict[str, tuple[Tensor, Tensor]]]:
    """Of every site with answer keys that the request may choose; they depend on no strength."""
    settings = problem.settings
    sites = [one.site for one in problem.stored.values() if one.site.role == "language" and one.site.last]
    drawn = ("aims", settings.unknown_images, settings.seed)
    with problem.original():
        moments = problem.memo.once(("moments", settings.refresh > 0), lambda: retained_answers(problem, sites))
        if settings.toward == "mean":
            return moments, {}
        return moments, problem.memo.once(drawn, lambda: unknown_outputs(problem, sites))


def _encoded_target(problem: Problem) -> Sequence[EncodedGroup]:
    return problem.memo.once("target", lambda: encode_all(problem.loaded, problem.records(problem.split.target)))


def _answer_keys(problem: Problem, site: Site, *, edited: bool) -> Tensor:
    """What enters a site at the target's answers: taken anew as soon as a site before it has been edited."""
    encoded = _encoded_target(problem)

    def taken() -> Tensor:
        return answer_inputs(problem.loaded, encoded, [site], problem.batch_tokens, problem.notice)[site.name]

    return taken() if edited else problem.memo.once(("keys", site.name), taken)


def _solve_images(problem: Problem, site: Site) -> oblique.Solution:
    """Image keys: the target's images are sent to the mean of the comparison's, token by token where counts agree."""
    with problem.original():
        taken = problem.memo.once(("images", site.name), lambda: image_keys(problem, site))
    weight = site.weight(problem.loaded.model).to(taken.keys)
    metric = _metric(problem, taken.retained, len(taken.keys), weight)
    return _solve_site(problem, weight, taken.keys, taken.means @ weight.T, metric)
