"""Streaming second moments: something that rows are added to, and the frozen moments that it yields."""

from typing import Self

import torch
from torch import Tensor

from chip.collect.state import State
from chip.collect.statistics import Moments, accumulator_dtype
from chip.collect.team import Team
from chip.kernels import second_moment

_ROWS_AT_ONCE = 1024
"""Rows are gathered up to this many before they are multiplied: a product reads and writes the whole (d, d) sum."""


class ExactMoments:
    """Adds up Σxxᵀ and Σx of rows (T, d), in 64 bits on a CPU and 32 on an accelerator."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        dtype = accumulator_dtype(device)
        self._outer = torch.zeros(inputs, inputs, dtype=dtype, device=device)
        self._total = torch.zeros(inputs, dtype=dtype, device=device)
        self._count = 0
        self._waiting: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Add rows (T, d) of any floating type."""
        self._count += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _ROWS_AT_ONCE:
            self._multiply()

    @property
    def device(self) -> torch.device:
        return self._outer.device

    def combine(self, team: Team) -> None:
        """Add up what all processes have, where the first of them is."""
        self._multiply()
        count = torch.tensor([self._count], device=self._outer.device)
        team.add_up(self._outer, self._total, count)
        self._count = int(count)

    def result(self) -> Moments:
        """What has been added so far, on the CPU."""
        self._multiply()
        return Moments(self._outer.cpu(), self._total.cpu(), self._count)

    def state(self) -> State:
        """All there is to know, on the CPU: `restore` goes on from it bit for bit."""
        waiting = torch.cat(self._waiting) if self._waiting else self._outer[:0]
        tensors = {"outer": self._outer, "total": self._total, "waiting": waiting}
        return State({name: one.clone().cpu() for name, one in tensors.items()}, {"count": self._count})

    @classmethod
    def restore(cls, state: State, device: torch.device) -> Self:
        """Go on from a state."""
        one = cls(len(state.tensors["total"]), device)
        one._outer.copy_(state.tensors["outer"])
        one._total.copy_(state.tensors["total"])
        one._count = int(state.numbers["count"])
        if len(waiting := state.tensors["waiting"]):
            one._waiting = [waiting.to(device)]
        return one

    def _multiply(self) -> None:
        if self._waiting:
            second_moment(torch.cat(self._waiting), self._outer, self._total)
            self._waiting = []
