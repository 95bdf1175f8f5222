"""The aims of an unknown patient: what sites put out for the target's questions beside other, retained images."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from chip.collect import answer_counts, answer_outputs, encode_all
from chip.hierarchy import Record
from chip.models.sites import Site
from chip.records.digests import image_digest
from chip.solve.problem import Problem

_SHOWN_AT_ONCE = 32
"""The target's records that are shown with other images together: their outputs are kept until they are averaged."""


def unknown_outputs(problem: Problem, sites: Sequence[Site]) -> dict[str, tuple[Tensor, Tensor]]:
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
