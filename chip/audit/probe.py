"""A linear probe: whether what a model holds in mind tells the target's records from others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from chip.audit.subject import Subject
from chip.hierarchy import Record

RIDGE = 1.0
"""Regularisation, in units of the mean variance of the states."""


def states(subject: Subject, records: Sequence[Record]) -> Tensor:
    """The last hidden state at the position from which the answer begins, (records, d), float64 on the CPU.

    One record is run at a time, so that no padding or neighbour can show.
    """
    prompts, model = subject.loaded.prompts, subject.loaded.model
    found = []
    for encoded in subject.tracked(prompts.encode_all(records), "what it holds in mind"):
        batch = prompts.collate([encoded], subject.loaded.device)
        with torch.no_grad():
            hidden = model(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states[-1]
        found.append(hidden[0, encoded.answer_start - 1].double().cpu())
    return torch.stack(found)


def left_out_scores(features: Tensor, member: Tensor) -> Tensor:
    """Of each row (N, d), what a ridge regression on all the others makes of it: more for members (N,), bool.

    Closed form: with the hat matrix H of the regression on all rows, the residual of a row left out is its own divided
    by 1 − H_ii (Cook and Weisberg 1982). Classes weigh the same, however many rows they have.
    """
    wanted = member.double() * 2 - 1
    weight = torch.where(member, 0.5 / member.sum(), 0.5 / (~member).sum()).double()
    centred = features - (weight[:, None] * features).sum(0)
    rows = torch.cat([centred, torch.ones(len(centred), 1, dtype=torch.float64)], 1) * weight.sqrt()[:, None]
    penalty = RIDGE * float(rows[:, :-1].square().sum()) / max(features.shape[1], 1)
    # In the dual, since there are fewer rows than features; the constant is hardly held back at all.
    scale = torch.ones(rows.shape[1], dtype=torch.float64)
    scale[-1] = 1e6
    kernel = (rows * scale) @ rows.T
    hat = torch.linalg.solve(kernel + penalty * torch.eye(len(rows), dtype=torch.float64), kernel).T
    target = wanted * weight.sqrt()
    residual = (target - hat @ target) / (1 - hat.diagonal()).clamp_min(1e-9)
    scores: Tensor = (target - residual) / weight.sqrt()
    return scores
