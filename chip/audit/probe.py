"""A linear probe: whether what a model holds in mind tells the target's records from others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from chip.audit.subject import Subject
from chip.hierarchy import Record

RIDGE = 1.0
"""Regularisation, in units of the mean variance of the states, classes aside."""

_TIE = 1e-9
"""Scores, which are about ±1, are the same if they differ by less: rounding noise tells nobody apart."""


def states(subject: Subject, records: Sequence[Record]) -> Tensor:
    """The last hidden state at the position from which the answer begins, (records, d), float64 on the CPU. Records
    that ask something: before a document stands nothing of its own.

    One record is run at a time, so that no padding or neighbour can show.
    """
    prompts, model = subject.loaded.prompts, subject.loaded.model
    found = []
    for encoded in subject.tracked(prompts.encode_all(records), "what it holds in mind"):
        batch = prompts.collate([encoded], subject.loaded.device)
        with torch.no_grad():
            hidden = model(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states[-1]
        found.append(hidden[0, encoded.answer_start - 1].cpu().double())
    return torch.stack(found)


def left_out_pairs(features: Tensor, member: Tensor) -> Tensor:
    """Of each member and each other row of features (N, d), float64, whether a ridge regression on all rows but these
    two puts the member above: 1 or 0, and 0.5 where it tells them not apart. member: (N,), bool. (M, O), float64; its
    mean is an area under the curve. Two members and two others are needed.

    Pairs are left out, not rows: a row that is left out pulls the mean of its class away from itself, so that of pure
    noise the row's own score would lie on the other side; of a pair neither has a part in the fit, and of noise it is
    as likely above as below (Airola et al. 2011, doi 10.1016/j.csda.2010.11.018). In each fit both classes weigh the
    same. Closed form: with H the hat matrix of the regression on all rows, weighed as in the fits, the residuals of
    rows S that are left out are (I − H_SS)⁻¹ times their own (Cook and Weisberg 1982).
    """
    wanted = member.double() * 2 - 1
    weight = torch.where(member, 0.5 / (member.sum() - 1), 0.5 / ((~member).sum() - 1)).double()
    root = weight.sqrt()
    hat = _hat(features, weight)
    residual = root * wanted - hat @ (root * wanted)
    inside = 1 - hat.diagonal()
    # Of each pair, the inverse of the two by two matrix that I − H leaves.
    ours, theirs, cross = inside[member][:, None], inside[~member][None, :], -hat[member][:, ~member]
    mine, other = residual[member][:, None], residual[~member][None, :]
    determinant = ours * theirs - cross.square()
    score = 1 - (theirs * mine - cross * other) / determinant / root[member][:, None]
    beside = -1 - (ours * other - cross * mine) / determinant / root[~member][None, :]
    above: Tensor = 0.5 * (1 + torch.where((score - beside).abs() > _TIE, (score - beside).sign(), 0.0))
    return above


def _hat(features: Tensor, weight: Tensor) -> Tensor:
    """The hat matrix (N, N) of a ridge regression with weighed rows, in the dual; the constant is not held back."""
    # From one of the rows, so that rows which are all alike differ by nothing at all.
    shifted = features - features[0]
    spread = (shifted - shifted.mean(0)).square().mean()
    # A penalty of nothing at all would leave nothing to solve where all rows are alike.
    penalty = RIDGE * float(spread) or 1.0
    root, total = weight.sqrt(), weight.sum()
    rows = root[:, None] * (shifted - (weight[:, None] * shifted).sum(0) / total)
    kernel = rows @ rows.T
    held_back = kernel + penalty * torch.eye(len(rows), dtype=kernel.dtype)
    hat: Tensor = torch.linalg.solve(held_back, kernel) + torch.outer(root, root) / total
    return hat
