"""The two training-free methods as solvers: from a problem to an edit with a report on each site."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chip.collect import (
    SecondMoments,
    answer_inputs,
    answer_outputs,
    collect_parts,
    image_inputs,
    part_of,
    without,
)
from chip.edit import Change
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.checkpoint import StoredTensor
from chip.models.sites import Site
from chip.records.digests import divide_images, image_digest
from chip.solve import oblique, orthogonal
from chip.solve.metric import weighted_metric
from chip.solve.problem import Problem, SiteReport, Solved, as_edit, change, chosen_sites, restored


def solve(problem: Problem) -> Solved:
    """Solve a request by the method that its settings name. The model's weights are as before when it returns."""
    return _SOLVERS[problem.settings.method](problem)


def solve_orthogonal(problem: Problem) -> Solved:
    """CHIP: project the target's directions off the outputs of every chosen site, weights and biases."""
    changes, reports = [], []
    for site in chosen_sites(problem.loaded.sites, problem.settings):
        settings, statistics = problem.settings, problem.statistics
        found = orthogonal.solve_site(
            statistics.pooled[site.name], statistics.nodes, problem.split.targets, settings.top_k, settings.variance
        )
        if found is None:
            reports.append(
                SiteReport(site.name, 0, 0.0, reason="the target does not reach it, or differs in nothing there")
            )
            continue
        stored = problem.stored[site.name]
        weight = _stored(stored.weight)
        left, right = found.factors(weight)
        changes.append(change(stored.weight.name, left, right, found.neurons))
        if stored.bias is not None:
            bias = found.factors(_stored(stored.bias)[:, None])
            changes.append(change(stored.bias.name, *bias, found.neurons))
        relative = float((left @ right).norm() / weight.norm())
        reports.append(SiteReport(site.name, len(found.basis), relative))
    return as_edit(problem, changes, reports)


def solve_oblique(problem: Problem) -> Solved:
    """Oblique projection: image keys at the projector first where asked for, then answer keys, layer by layer.

    Moments and aims are those of the unedited model; after each site only the target's own records run again.
    """
    sites = chosen_sites(problem.loaded.sites, problem.settings)
    image_sites = [site for site in sites if site.role == "projector"]
    answer_sites = [site for site in sites if site.role == "language"]
    kept = _answer_moments(problem, answer_sites) if answer_sites else {}
    aims = _unknown_outputs(problem, answer_sites) if answer_sites and problem.settings.toward != "mean" else {}
    changes: list[Change] = []
    reports: list[SiteReport] = []
    with restored(problem.loaded.model, sites):
        for site in image_sites:
            reason = divide_images(problem.hierarchy, problem.split).obstacle
            if reason and problem.settings.keys == "image":
                raise ChipError(f"{reason}; use --keys answer")
            if reason:
                reports.append(SiteReport(site.name, 0, 0.0, reason=reason))
            else:
                _apply(problem, site, _solve_images(problem, site), changes, reports)
        encoded = [problem.loaded.prompts.encode(record) for record in problem.records(problem.split.target)]
        for site in problem.track(answer_sites, "solving site by site"):
            keys = answer_inputs(problem.loaded, encoded, [site], problem.settings.batch_size)[site.name]
            weight = site.module(problem.loaded.model).weight.detach().to(keys.dtype)
            retain, comparison = kept[site.name]
            toward_mean = (weight @ retain.mean.to(weight)).expand(len(keys), -1)
            unknown, shown = aims.get(site.name, (toward_mean, torch.zeros(len(keys), 1, dtype=torch.bool)))
            aim = torch.where(shown.to(unknown.device), unknown, toward_mean)
            solution = _solve_site(problem, weight, keys, aim, retain, comparison)
            if problem.settings.toward == "beyond":
                solution = solution.enlarged(problem.settings.largest_overshoot)
            _apply(problem, site, solution, changes, reports)
    return as_edit(problem, changes, reports)


_SOLVERS: Mapping[str, Callable[[Problem], Solved]] = {"chip": solve_orthogonal, "oblique": solve_oblique}


def _stored(tensor: StoredTensor) -> Tensor:
    """A tensor as the checkpoint holds it, whatever dtype the model was loaded in, in float64."""
    return torch.from_numpy(tensor.read().astype(np.float64))


def _apply(
    problem: Problem, site: Site, solution: oblique.Solution, changes: list[Change], reports: list[SiteReport]
) -> None:
    """Write a solution into the live model, so that the sites after it see it, and note it down."""
    weight = site.module(problem.loaded.model).weight
    before = weight.detach().to(solution.left.dtype)
    with torch.no_grad():
        weight.copy_(before + solution.delta)
    relative = float(solution.delta.norm() / before.norm())
    rank = min(solution.left.shape) if solution.right is None else solution.left.shape[1]
    changes.append(change(problem.stored[site.name].weight.name, solution.left, solution.right))
    reports.append(
        SiteReport(site.name, rank, relative, solution.distortion, solution.strength, uncertainty=solution.uncertainty)
    )


def _solve_site(
    problem: Problem, weight: Tensor, keys: Tensor, aims: Tensor, retain: SecondMoments, comparison: SecondMoments
) -> oblique.Solution:
    settings = problem.settings
    metric = weighted_metric(retain, comparison, settings.sibling_weight, settings.ridge, weight)
    return oblique.solve_site(
        weight, keys, aims, metric, strength=settings.fixed_strength, budget=settings.retain_budget
    )


def _answer_moments(problem: Problem, sites: Sequence[Site]) -> dict[str, tuple[SecondMoments, SecondMoments]]:
    """Retain and comparison moments by site name: total less target, and a pass over the comparison records."""
    totals = {site.name: problem.statistics.answer[site.name] for site in sites}

    def moments(positions: Sequence[int], doing: str) -> dict[str, SecondMoments]:
        size, track = problem.settings.batch_size, problem.track
        return collect_parts(
            problem.loaded, problem.records(positions), totals, batch_size=size, track=track, doing=doing
        )

    target = moments(problem.split.target, "running the target's records")
    retain = {name: without(total, target[name]) for name, total in totals.items()}
    if problem.split.comparison == problem.split.retain:
        return {name: (one, one) for name, one in retain.items()}
    comparison = moments(problem.split.comparison, "running the comparison records")
    return {name: (one, comparison[name]) for name, one in retain.items()}


def _unknown_outputs(problem: Problem, sites: Sequence[Site]) -> dict[str, tuple[Tensor, Tensor]]:
    """What the sites put out for the target's questions and answers beside other, retained images.

    By site name: the outputs less bias (T, D), averaged over the images position by position, and a mask (T, 1) of the
    tokens whose record shows an image at all. Images are drawn by seed from the comparison records, and from the
    other retained ones where those are too few.
    """
    near = _distinct_images(problem.records(problem.split.comparison))
    far = {d: path for d, path in _distinct_images(problem.records(problem.split.retain)).items() if d not in near}
    prompts, count = problem.loaded.prompts, problem.settings.unknown_images
    draw = random.Random(problem.settings.seed)
    shown: list[tuple[bool, int]] = []
    rows: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    for record in problem.track(problem.records(problem.split.target), "showing other images"):
        own = {image_digest(path) for path in record.images}
        candidates = [[path for digest, path in pool.items() if digest not in own] for pool in (near, far)]
        order = [image for pool in candidates for image in draw.sample(pool, len(pool))][: count * len(record.images)]
        groups = [order[i : i + len(record.images)] for i in range(0, len(order), max(len(record.images), 1))]
        variants = [prompts.encode(record, tuple(g)) for g in groups if len(g) == len(record.images)]
        shown.append((bool(variants), len(prompts.encode(record).answer_ids)))
        found = answer_outputs(problem.loaded, variants or [prompts.encode(record)], sites, problem.settings.batch_size)
        for name, output in found.items():
            rows[name].append(output.view(len(variants) or 1, -1, output.shape[-1]).mean(0))
    mask = torch.cat([torch.full((length, 1), seen) for seen, length in shown])
    biases = {site.name: site.module(problem.loaded.model).bias for site in sites}
    return {
        name: (torch.cat(outputs) - (0 if biases[name] is None else biases[name].detach()), mask)
        for name, outputs in rows.items()
    }


def _distinct_images(records: Sequence[Record]) -> dict[str, Path]:
    return {image_digest(path): path for record in records for path in record.images}


def _solve_images(problem: Problem, site: Site) -> oblique.Solution:
    """Image keys: the target's images are sent to the mean of the comparison's, token by token where counts agree."""
    size, images = problem.settings.batch_size, divide_images(problem.hierarchy, problem.split)
    target = image_inputs(problem.loaded, problem.records(problem.split.target), site, size)
    owned = [rows for digest, rows in target.items() if digest in images.owned]
    others = image_inputs(problem.loaded, problem.records(images.comparison_records), site, size)
    compared = [rows for digest, rows in others.items() if digest in images.comparison]
    keys, total = torch.cat(owned), problem.statistics.image[site.name]
    retain = without(total, part_of(total, keys))
    weight = site.module(problem.loaded.model).weight.detach().to(keys)
    aims = torch.cat([_mean_image(compared, len(rows)) for rows in owned]) @ weight.T
    return _solve_site(problem, weight, keys, aims, retain, part_of(total, torch.cat(compared)))


def _mean_image(images: list[Tensor], tokens: int) -> Tensor:
    """The mean input (tokens, d) of images at the same token, or over all tokens where their counts differ."""
    if all(len(rows) == tokens for rows in images):
        return torch.stack(images).mean(0)
    return torch.cat(images).mean(0).expand(tokens, -1)
