"""Running what fits: groups in chunks that memory holds, smaller ones from where it runs out."""

import re
import warnings
from collections.abc import Callable, Sequence

import torch

from chip.collect.grouping import EncodedGroup, chunks
from chip.errors import ChipError

Notice = Callable[[str], None]

_OUT_OF_MEMORY = re.compile("not enough memory|can't allocate memory|out of memory", re.IGNORECASE)

_FEWEST_TOKENS = 64
"""Where passes of no more tokens than these do not fit, nothing will."""


def run_fitting(
    groups: Sequence[EncodedGroup],
    budget: int,
    attempt: Callable[[Sequence[EncodedGroup], int], None],
    notice: Notice = warnings.warn,
    name: Callable[[EncodedGroup], str] = lambda group: "",
) -> int:
    """Attempt the groups chunk by chunk, and halve the tokens a pass, with a notice, where memory runs out.

    attempt: runs a chunk with passes of at most so many tokens, or leaves nothing behind. Returns the tokens that were
    last enough. Raises ChipError, with what `name` calls the group, where memory does not hold the smallest pass.
    """
    left = list(chunks(groups, budget))
    while left:
        chunk = left.pop(0)
        if _fits(attempt, chunk, budget):
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        budget //= 2
        if budget < _FEWEST_TOKENS:
            raise ChipError(
                f"memory ran out with a record at a time{name(chunk[0])}: "
                "use a smaller --dtype, less --statistics-memory or another --device"
            )
        notice(f"memory ran out: passes of at most {budget} tokens from here on")
        left = list(chunks([group for one in (chunk, *left) for group in one], budget))
    return budget


def ran_out_of_memory(problem: RuntimeError) -> bool:
    """Whether torch failed for want of memory, on an accelerator or on the CPU."""
    return isinstance(problem, torch.OutOfMemoryError) or bool(_OUT_OF_MEMORY.search(str(problem)))


def _fits(attempt: Callable[[Sequence[EncodedGroup], int], None], chunk: Sequence[EncodedGroup], budget: int) -> bool:
    try:
        attempt(chunk, budget)
    except RuntimeError as problem:
        if not ran_out_of_memory(problem):
            raise
        return False
    return True
