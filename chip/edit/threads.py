"""Threads where there is enough to do: NumPy, hashing and reading files let others run meanwhile.

Little work is done in turn, so that every run of it takes the same steps.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

_WORTH = 32 << 20
"""Bytes below which threads are not worth it."""

_MOST = 8
Item = TypeVar("Item")
Found = TypeVar("Found")


def each(function: Callable[[Item], Found], items: Sequence[Item], size: int) -> list[Found]:
    """What a function finds for each item, in order. size: bytes that all of them are about."""
    workers = min(_MOST, os.cpu_count() or 1, len(items))
    if size < _WORTH or workers < 2:
        return [function(item) for item in items]
    # A matrix product that spreads over all processors by itself would only be in its neighbours' way.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(function, item) for item in items]
        try:
            return [one.result() for one in running]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def beside(work: Callable[[], None], stop: Callable[[], None], size: int) -> Iterator[None]:
    """Does `work` beside the body, or, where it is little, before it; whichever fails ends both.

    stop: has the work end early. size: bytes that it is about.
    """
    if size < _WORTH:
        work()
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        try:
            yield
        except BaseException:
            stop()
            raise
        running.result()
