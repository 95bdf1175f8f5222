"""Several processes that work together: each runs its share, and what they have is added up, in the end or as they go.

Started by torchrun or `accelerate launch`, which say in the environment who is who. Only plain tensors travel.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from chip.errors import ChipError, UsageError
from chip.progress import Item

_PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest; one that ends is noticed at once."""

JOINING = timedelta(minutes=30)
"""How long a process waits for the others to have loaded the model; that one of them ended is not noticed before."""

_LOST = "another process of this run ended before it was done; nothing was written, start it again"


@dataclass(frozen=True)
class Team:
    """This process's number and how many there are; by itself, a team of one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that ends up with the sums, and writes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that are this process's: every `size`-th."""
        return items[self.rank :: self.size]

    def add_up(self, *tensors: Tensor) -> None:
        """Add up each tensor over all processes, in place, where the first process is."""
        if self.size > 1:
            with _together():
                for tensor in tensors:
                    distributed.reduce(tensor, dst=0)

    def total(self, *tensors: Tensor) -> None:
        """Add up each tensor over all processes, in place, in every process."""
        if self.size > 1:
            with _together():
                for tensor in tensors:
                    distributed.all_reduce(tensor)

    def partners(self) -> Iterator[tuple[int, bool]]:
        """Whom this process meets in turn, and whether it receives: pairs of neighbours, then pairs of pairs, until the
        first process has what all had. A process that has given what it has is done."""
        step = 1
        while step < self.size:
            if self.rank % (2 * step):
                yield self.rank - step, False
                return
            if self.rank + step < self.size:
                yield self.rank + step, True
            step *= 2

    def send(self, partner: int, *tensors: Tensor) -> None:
        """Give tensors to another process, which has to receive as many of the same shapes."""
        with _together():
            for tensor in tensors:
                distributed.send(tensor, partner)

    def receive(self, partner: int, *tensors: Tensor) -> None:
        """Fill tensors with what another process sends."""
        with _together():
            for tensor in tensors:
                distributed.recv(tensor, partner)

    def least(self, numbers: Sequence[int], device: torch.device) -> list[int]:
        """The smallest that any process gives of each number."""
        least = torch.tensor(numbers, dtype=torch.int64, device=device)
        if self.size > 1:
            with _together():
                distributed.all_reduce(least, distributed.ReduceOp.MIN)
        return [int(number) for number in least]

    def agree(self, digest: str, device: torch.device, otherwise: str) -> None:
        """Raise ChipError, with the process's number before `otherwise`, where a digest is not that of process 0."""
        if self.size > 1:
            mine = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8, device=device)
            theirs = [torch.empty_like(mine) for _ in range(self.size)]
            with _together():
                distributed.all_gather(theirs, mine)
            odd = [number for number, one in enumerate(theirs) if not torch.equal(one, theirs[0])]
            if odd:
                raise ChipError(f"process {odd[0]} {otherwise}")

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            with _together():
                distributed.barrier()


def launched() -> tuple[int, int]:
    """This process's number and how many there are, as the launcher says; 0 of 1 where there is none."""
    try:
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError as problem:
        raise UsageError(f"RANK and WORLD_SIZE must be numbers, as torchrun sets them ({problem})") from problem
    if not 0 <= rank < size:
        raise UsageError(f"RANK {rank} of WORLD_SIZE {size} makes no sense; let torchrun set them")
    return rank, size


def own_device(name: str) -> str:
    """The device for this process: of several on one machine, each has an accelerator of its own."""
    if launched()[1] > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return name


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """Join the other processes, over NCCL on CUDA devices and over gloo elsewhere, and leave them in the end."""
    rank, size = launched()
    if size == 1:
        yield Team()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, rank, size = next(rendezvous("env://", timeout=JOINING))
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as problem:
        raise ChipError(
            f"the {size} processes of this run could not join ({problem}); "
            "start them with torchrun or `accelerate launch`"
        ) from problem
    try:
        yield Team(rank, size)
    finally:
        distributed.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise ChipError("memory ran out while sums were added up: use less --statistics-memory") from problem
    except (RuntimeError, ValueError) as problem:
        raise ChipError(_LOST) from problem
