"""Encoding ahead of the model: images are decoded and preprocessed, and texts tokenised, in worker processes."""

import os
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from chip.collect.grouping import EncodedGroup, Group, encode_group
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.prompts import Prompts
from chip.records.digests import image_digest

_AHEAD = 4
"""Groups that each worker may have ready before the model asks for them."""


class _Encoding(Dataset[Any]):
    """The groups, encoded one by one where they are asked for. A failure is handed over as what it is, so that it
    arrives as one sentence and not as a worker's traceback."""

    def __init__(self, groups: Sequence[Group], records: Sequence[Record], prompts: Prompts, longest: int) -> None:
        self.groups, self.records, self.prompts, self.longest = groups, records, prompts, longest

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> list[EncodedGroup] | ChipError:
        try:
            group = self.groups[number]
            self._refuse_changed(group)
            return encode_group(group, self.records, self.prompts, self.longest)
        except ChipError as problem:
            return problem

    def _refuse_changed(self, group: Group) -> None:
        first = self.records[group.records[0]]
        for path, digest in zip(first.images, group.images, strict=True):
            if not path.is_file() or image_digest(path) != digest:
                raise ChipError(f"record on line {first.line}: {path} changed while it was being collected; run again")


class Feed:
    """Encoded groups in the order of the plan, `workers` processes ahead of whoever takes them; 0 encodes in turn."""

    def __init__(
        self, groups: Sequence[Group], records: Sequence[Record], prompts: Prompts, longest: int, *, workers: int
    ) -> None:
        self._encoding = _Encoding(groups, records, prompts, longest)
        self._workers = min(workers, len(groups))

    def __len__(self) -> int:
        return len(self._encoding)

    def __iter__(self) -> Iterator[list[EncodedGroup]]:
        """Raises ChipError, naming a line, where a record cannot be encoded or its image has changed."""
        made = self._ahead() if self._workers else (self._encoding[number] for number in range(len(self)))
        # Closed here, which ends the workers: left to the garbage collector, they would be waited for.
        with closing(made):
            for one in made:
                if isinstance(one, ChipError):
                    raise one
                yield one

    def _ahead(self) -> Generator[Any]:
        with warnings.catch_warnings():
            # More workers than processors is for the user to choose.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader = DataLoader(
                self._encoding,
                batch_size=None,
                num_workers=self._workers,
                prefetch_factor=_AHEAD,
                collate_fn=_as_arrays,
                worker_init_fn=partial(_end_with, os.getpid()),
            )
        for one in loader:
            yield _as_tensors(one)


@contextmanager
def lost_workers_told() -> Iterator[None]:
    """One sentence for a worker that was ended, which torch raises wherever this process then stands."""
    try:
        yield
    except RuntimeError as problem:
        if not str(problem).startswith("DataLoader worker"):
            raise
        raise ChipError(
            "a process that encodes ahead was ended, perhaps for want of memory; run again with fewer --workers"
        ) from problem


def _end_with(parent: int, _: int) -> None:
    """Let this worker end when its parent does: once that is killed, nobody takes what the worker is about to hand
    over, and it would wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _as_arrays(one: Any) -> Any:
    """Tensors would travel between processes as open files, of which there may be only so many."""
    return one if isinstance(one, ChipError) else [_converted(group, lambda tensor: tensor.numpy()) for group in one]


def _as_tensors(one: Any) -> Any:
    return one if isinstance(one, ChipError) else [_converted(group, torch.from_numpy) for group in one]


def _converted(group: EncodedGroup, convert: Any) -> EncodedGroup:
    pixels = {key: convert(value) for key, value in group.encoded[0].pixels.items()}
    encoded = (
        replace(one, sequence={key: convert(value) for key, value in one.sequence.items()}, pixels=pixels)
        for one in group.encoded
    )
    return replace(group, encoded=tuple(encoded))
