"""The two training-free methods as solvers: from a problem to an edit with a report on each site."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chip.collect import (
    SecondMoments,
    answer_counts,
    answer_inputs,
    answer_outputs,
    collect_parts,
    encode_all,
    image_inputs,
    part_of,
    without,
)
from chip.edit import Change
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.checkpoint import StoredTensor
from chip.models.sites import Site
from chip.records.digests import divide_images, image_digest, images_of
from chip.solve import oblique, orthogonal
from chip.solve.metric import weighted_metric
from chip.solve.problem import Problem, SiteReport, Solved, as_edit, change, chosen_sites, restored, weight_change

_SHOWN_AT_ONCE = 32
"""The target's records that are shown with other images together: their outputs are kept until they are averaged."""


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
        weight = _stored(stored.weight).T if site.transposed else _stored(stored.weight)
        left, right = found.factors(weight)
        changes.append(weight_change(stored, left, right, found.neurons))
        if stored.bias is not None:
            bias = found.factors(_stored(stored.bias)[:, None])
            changes.append(change(stored.bias, *bias, found.neurons))
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
    kept, aims = _moments_and_aims(problem) if answer_sites else ({}, {})
    changes: list[Change] = []
    reports: list[SiteReport] = []
    with restored(problem.loaded.model, sites):
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
    weight = site.weight(problem.loaded.model)
    before = weight.to(solution.left.dtype, copy=True)
    weight.copy_(before + solution.delta)
    relative = float(solution.delta.norm() / before.norm())
    rank = min(solution.left.shape) if solution.right is None else solution.left.shape[1]
    changes.append(weight_change(problem.stored[site.name], solution.left, solution.right))
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


def _moments_and_aims(
    problem: Problem,
) -> tuple[dict[str, tuple[SecondMoments, SecondMoments]], dict[str, tuple[Tensor, Tensor]]]:
    """Of every site with answer keys that the request may choose; they depend on no strength."""
    settings = problem.settings
    sites = [one.site for one in problem.stored.values() if one.site.role == "language" and one.site.last]
    moments = problem.memo.once("moments", lambda: _answer_moments(problem, sites))
    if settings.toward == "mean":
        return moments, {}
    drawn = ("aims", settings.unknown_images, settings.seed)
    return moments, problem.memo.once(drawn, lambda: _unknown_outputs(problem, sites))


def _answer_keys(problem: Problem, site: Site, *, edited: bool) -> Tensor:
    """What enters a site at the target's answers: taken anew as soon as a site before it has been edited."""
    encoded = problem.memo.once("target", lambda: encode_all(problem.loaded, problem.records(problem.split.target)))

    def taken() -> Tensor:
        return answer_inputs(problem.loaded, encoded, [site], problem.batch_tokens, problem.notice)[site.name]

    return taken() if edited else problem.memo.once(("keys", site.name), taken)


def _answer_moments(problem: Problem, sites: Sequence[Site]) -> dict[str, tuple[SecondMoments, SecondMoments]]:
    """Retain and comparison moments by site name: total less target, and a pass over the comparison records."""
    totals = {site.name: problem.statistics.answer[site.name] for site in sites}

    def moments(positions: Sequence[int], doing: str) -> Mapping[str, SecondMoments]:
        records, size, track = problem.records(positions), problem.batch_tokens, problem.track
        return collect_parts(
            problem.loaded, records, totals, batch_tokens=size, track=track, doing=doing, notice=problem.notice
        )

    split = problem.split
    target = dict(moments(problem.among_counted(split.target), "running the target's records"))
    # Each of these may be as large as the total: a target's is let go as soon as it is taken off.
    retain = {name: without(total, target.pop(name)) for name, total in totals.items()}
    compared = problem.among_counted(split.comparison)
    if compared == problem.among_counted(split.retain):
        return {name: (one, one) for name, one in retain.items()}
    comparison = moments(compared, "running the comparison records")
    return {name: (one, comparison[name]) for name, one in retain.items()}


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
    taken = problem.memo.once(("images", site.name), lambda: _image_keys(problem, site))
    weight = site.weight(problem.loaded.model).to(taken.keys)
    return _solve_site(problem, weight, taken.keys, taken.means @ weight.T, taken.retain, taken.comparison)


@dataclass(frozen=True)
class _ImageKeys:
    """Inputs (T, d) of the target's images, the mean inputs (T, d) that they are sent to, and the moments."""

    keys: Tensor
    means: Tensor
    retain: SecondMoments
    comparison: SecondMoments


def _image_keys(problem: Problem, site: Site) -> _ImageKeys:
    size, images = problem.batch_tokens, divide_images(problem.hierarchy, problem.split)
    target = image_inputs(problem.loaded, problem.records(problem.split.target), site, size, problem.notice)
    owned = [rows for digest, rows in target.items() if digest in images.owned]
    others = image_inputs(problem.loaded, problem.records(images.comparison_records), site, size, problem.notice)
    compared = [rows for digest, rows in others.items() if digest in images.comparison]
    keys, total = torch.cat(owned), problem.statistics.image[site.name]
    counted = images_of(problem.records(sorted(problem.counted)))
    own = [rows for digest, rows in target.items() if digest in images.owned & counted]
    retain = without(total, part_of(total, torch.cat(own) if own else keys[:0]))
    means = torch.cat([_mean_image(compared, len(rows)) for rows in owned])
    return _ImageKeys(keys, means, retain, part_of(total, torch.cat(compared)))


def _mean_image(images: list[Tensor], tokens: int) -> Tensor:
    """The mean input (tokens, d) of images at the same token, or over all tokens where their counts differ."""
    if all(len(rows) == tokens for rows in images):
        return torch.stack(images).mean(0)
    return torch.cat(images).mean(0).expand(tokens, -1)
