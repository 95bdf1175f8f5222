"""A request solved by orthogonal projection (CHIP), from the pooled sums alone."""

import numpy as np
import torch
from torch import Tensor

from chip.models.matrix import Matrix
from chip.solve import orthogonal
from chip.solve.changes import bias_change, projected, weight_change
from chip.solve.problem import Problem, SiteReport, Solved, as_edit, chosen_sites


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
        transposed = sites[name].transposed
        weight = _stored(stored.weight).T if transposed else _stored(stored.weight)
        left, right = projection.factors(weight)
        derivation = projected(projection, transposed=transposed)
        changes.append(weight_change(stored, left, right, projection.neurons, derivation))
        if stored.bias is not None:
            bias = projection.factors(_stored(stored.bias)[:, None])
            changes.append(bias_change(stored, *bias, projection.neurons, projected(projection)))
        relative = float((left @ right).norm() / weight.norm())
        reports.append(SiteReport(name, len(projection.basis), relative))
    return as_edit(problem, changes, reports)


def _stored(tensor: Matrix) -> Tensor:
    """A tensor as the checkpoint holds it, whatever dtype the model was loaded in, in float64."""
    return torch.from_numpy(tensor.read().astype(np.float64))
