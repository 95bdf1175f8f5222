"""Image keys: the target's images, as the projector's last linear is given them, and what they are sent to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from chip.collect import image_inputs
from chip.models.sites import Site
from chip.records.digests import divide_images, images_of
from chip.solve.problem import Problem
from chip.solve.retained import Retained
from chip.solve.room import refuse_too_large


@dataclass(frozen=True)
class ImageKeys:
    """Inputs (T, d) of the target's images, the mean inputs (T, d) that they are sent to, and what the metric is of."""

    keys: Tensor
    means: Tensor
    retained: Retained


def image_keys(problem: Problem, site: Site) -> ImageKeys:
    """The keys of a projector site, whose aims are the mean of the comparison's images, token by token where counts
    agree."""
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
    means = torch.cat([_mean_image(compared, len(rows)) for rows in owned])
    return ImageKeys(keys, means, Retained(site.name, total, torch.cat(own) if own else keys[:0], torch.cat(compared)))


def _mean_image(images: list[Tensor], tokens: int) -> Tensor:
    """The mean input (tokens, d) of images at the same token, or over all tokens where their counts differ."""
    if all(len(rows) == tokens for rows in images):
        return torch.stack(images).mean(0)
    return torch.cat(images).mean(0).expand(tokens, -1)
