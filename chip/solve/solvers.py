"""The two training-free methods as solvers: from a problem to an edit with a report on each site."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chip.collect import (
    answer_counts,
    answer_inputs,
    answer_outputs,
    encode_all,
    image_inputs,
)
from chip.edit import Change
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.checkpoint import StoredTensor
from chip.models.sites import Site
from chip.records.digests import divide_images, image_digest, images_of
from chip.solve import oblique, orthogonal
from chip.solve.counterpart import solve_counterpart
from chip.solve.metric import Metric
from chip.solve.problem import Problem, SiteReport, Solved, as_edit, change, chosen_sites, restored, weight_change
from chip.solve.refresh import Refresher
from chip.solve.retained import Retained, metric_of, retained_answers
from chip.solve.room import refuse_too_large

_SHOWN_AT_ONCE = 32
"""The target's records that are shown with other images together: their outputs are kept until they are averaged."""


def solve(problem: Problem) -> Solved:
    """Solve a request by the method that its settings name. The model's weights are as before when it returns."""
    return _SOLVERS[problem.settings.method](problem)


def solve_orthogonal(problem: Problem) -> Solved:
    """CHIP: project the target's directions off the outputs of every chosen site, weights and biases."""
    changes, reports = [], []
    settings, statistics = problem.settings, problem.statistics
    sites = {site.name: site for site in chosen_sites(problem.loaded.sites, settings)}
    pooled = {name: statistics.pooled[name] for name in sites}
    (found,) = orthogonal.solve_requests(
        pooled, statistics.nodes, [problem.split.targets], settings.top_k, settings.variance
    )
    for name, projection in found.items():
        if projection is None:
            reason = "the target does not reach it, or differs in nothing there"
            reports.append(SiteReport(name, 0, 0.0, reason=reason))
            continue
        stored = problem.stored[name]
        weight = _stored(stored.weight).T if sites[name].transposed else _stored(stored.weight)
        left, right = projection.factors(weight)
        changes.append(weight_change(stored, left, right, projection.neurons))
        if stored.bias is not None:
            bias = projection.factors(_stored(stored.bias)[:, None])
            changes.append(change(stored.bias, *bias, projection.neurons))
        relative = float((left @ right).norm() / weight.norm())
        reports.append(SiteReport(name, len(projection.basis), relative))
    return as_edit(problem, changes, reports)


def solve_oblique(problem: Problem) -> Solved:
    """Oblique projection: image keys at the projector first where asked for, then answer keys, layer by layer.

    Moments and aims are those of the unedited model; after each site only the target's own records run again, and those
    that refresh the moments where that is asked for.
    """
    sites = chosen_sites(problem.loaded.sites, problem.settings)
    image_sites = [site for site in sites if site.role == "projector"]
    answer_sites = [site for site in sites if site.role == "language"]
    encoded = encode_all(problem.loaded, problem.records(problem.split.target)) if answer_sites else []
    refuse_too_large(problem, answer_sites, sum(answer_counts(encoded)))
    refresher = Refresher(problem) if problem.settings.refresh and answer_sites else None
    kept = retained_answers(problem, answer_sites) if answer_sites else {}
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
        for site in problem.track(answer_sites, "solving site by site"):
            keys = answer_inputs(problem.loaded, encoded, [site], problem.batch_tokens, problem.notice)[site.name]
            weight = site.weight(problem.loaded.model).to(keys.dtype)
            retained = kept.pop(site.name)
            toward_mean = (weight @ retained.mean.to(weight)).expand(len(keys), -1)
            unknown, shown = aims.get(site.name, (toward_mean, torch.zeros(len(keys), 1, dtype=torch.bool)))
            aim = torch.where(shown.to(unknown.device), unknown, toward_mean)
            metric = None if refresher is None else refresher.metric(site, retained.total, weight)
            solution = _solve_site(problem, weight, keys, aim, metric or _metric(problem, retained, len(keys), weight))
            if problem.settings.toward == "beyond":
                solution = solution.enlarged(problem.settings.largest_overshoot)
            _apply(problem, site, solution, changes, reports)
    return as_edit(problem, changes, reports)


_SOLVERS: Mapping[str, Callable[[Problem], Solved]] = {
    "counterpart": solve_counterpart,
    "chip": solve_orthogonal,
    "oblique": solve_oblique,
}


def _stored(tensor: StoredTensor) -> Tensor:
    """A tensor as the checkpoint holds it, whatever dtype the model was loaded in, in float64."""
    return torch.from_numpy(tensor.read().astype(np.float64))


def _apply(
    problem: Problem, site: Site, solution: oblique.Solution, changes: list[Change], reports: list[SiteReport]
) -> None:
    """Write a solution into the live model, so that the sites after it see it, and note it down."""
    weight = site.weight(problem.loaded.model)
    before = weight.to(solution.left.dtype, copy=True)
    weight.copy_(before + solution.delta)
    relative = float(solution.delta.norm() / before.norm())
    rank = min(solution.left.shape) if solution.right is None else solution.left.shape[1]
    changes.append(weight_change(problem.stored[site.name], solution.left, solution.right))
    reports.append(
        SiteReport(site.name, rank, relative, solution.distortion, solution.strength, uncertainty=solution.uncertainty)
    )


def _metric(problem: Problem, retained: Retained, keys: int, like: Tensor) -> Metric:
    settings = problem.settings
    return metric_of(retained, keys, settings.sibling_weight, settings.ridge, like, problem.bases)


def _solve_site(problem: Problem, weight: Tensor, keys: Tensor, aims: Tensor, metric: Metric) -> oblique.Solution:
    settings = problem.settings
    return oblique.solve_site(
        weight, keys, aims, metric, strength=settings.fixed_strength, budget=settings.retain_budget
    )


def _unknown_outputs(problem: Problem, sites: Sequence[Site]) -> dict[str, tuple[Tensor, Tensor]]:
    """What the sites put out for the target's questions and answers beside other, retained images.

    By site name: the outputs less bias (T, D), averaged over the images position by position, and a mask (T, 1) of the
    tokens whose record shows an image at all. Images are drawn by seed from the comparison records, and from the
    other retained ones where those are too few.
    """
    near = _distinct_images(problem.records(problem.split.comparison))
    far = {d: path for d, path in _distinct_images(problem.records(problem.split.retain)).items() if d not in near}
    draw = random.Random(problem.settings.seed)
    masks: list[Tensor] = []
    rows: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    target = problem.records(problem.split.target)
    blocks = [target[start : start + _SHOWN_AT_ONCE] for start in range(0, len(target), _SHOWN_AT_ONCE)]
    for block in problem.track(blocks, "showing other images"):
        # One record a picture that it is shown with: those with the same picture run together.
        shown = [_shown_with_others(record, near, far, problem.settings.unknown_images, draw) for record in block]
        encoded = encode_all(problem.loaded, [one for variants in shown for one in variants])
        found = answer_outputs(problem.loaded, encoded, sites, problem.batch_tokens, problem.notice)
        counts, sizes = iter(answer_counts(encoded)), []
        for record, variants in zip(block, shown, strict=True):
            sizes.append(tuple(next(counts) for _ in variants))
            masks.append(torch.full((sizes[-1][0], 1), variants != [record]))
        for name, outputs in found.items():
            parts = outputs.split([sum(size) for size in sizes])
            rows[name] += [
                part.view(len(size), -1, part.shape[-1]).mean(0) for part, size in zip(parts, sizes, strict=True)
            ]
    mask = torch.cat(masks)
    biases = {site.name: site.bias(problem.loaded.model) for site in sites}
    unbiased = {
        name: torch.cat(outputs) if (bias := biases[name]) is None else torch.cat(outputs) - bias
        for name, outputs in rows.items()
    }
    return {name: (outputs, mask) for name, outputs in unbiased.items()}


def _shown_with_others(
    record: Record, near: Mapping[str, Path], far: Mapping[str, Path], count: int, draw: random.Random
) -> list[Record]:
    """The record beside `count` other pictures, drawn from those near first; itself where there are none to draw."""
    own, images = {image_digest(path) for path in record.images}, len(record.images)
    candidates = [[path for digest, path in pool.items() if digest not in own] for pool in (near, far)]
    order = [image for pool in candidates for image in draw.sample(pool, len(pool))][: count * images]
    groups = [tuple(order[i : i + images]) for i in range(0, len(order), max(images, 1))]
    return [replace(record, images=group) for group in groups if len(group) == images] or [record]


def _distinct_images(records: Sequence[Record]) -> dict[str, Path]:
    return {image_digest(path): path for record in records for path in record.images}


def _solve_images(problem: Problem, site: Site) -> oblique.Solution:
    """Image keys: the target's images are sent to the mean of the comparison's, token by token where counts agree."""
    size, images = problem.batch_tokens, divide_images(problem.hierarchy, problem.split)
    target = image_inputs(problem.loaded, problem.records(problem.split.target), site, size, problem.notice)
    owned = [rows for digest, rows in target.items() if digest in images.owned]
    others = image_inputs(problem.loaded, problem.records(images.comparison_records), site, size, problem.notice)
    compared = [rows for digest, rows in others.items() if digest in images.comparison]
    keys = torch.cat(owned)
    refuse_too_large(problem, [site], len(keys))
    total = problem.statistics.image[site.name]
    counted = images_of(problem.records(sorted(problem.counted)))
    own = [rows for digest, rows in target.items() if digest in images.owned & counted]
    retained = Retained(site.name, total, torch.cat(own) if own else keys[:0], torch.cat(compared))
    weight = site.weight(problem.loaded.model).to(keys)
    aims = torch.cat([_mean_image(compared, len(rows)) for rows in owned]) @ weight.T
    return _solve_site(problem, weight, keys, aims, _metric(problem, retained, len(keys), weight))


def _mean_image(images: list[Tensor], tokens: int) -> Tensor:
    """The mean input (tokens, d) of images at the same token, or over all tokens where their counts differ."""
    if all(len(rows) == tokens for rows in images):
        return torch.stack(images).mean(0)
    return torch.cat(images).mean(0).expand(tokens, -1)
