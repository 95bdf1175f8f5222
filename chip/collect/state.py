"""What an accumulator holds, as plain tensors and numbers: how collections are kept and taken up again."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class State:
    """All that an accumulator holds, to be kept in a file: tensors and numbers by name.

    Its tensors may hold single rows as they came, which the sums of many do not show: keep it as private as the data.
    """

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, int | float]
