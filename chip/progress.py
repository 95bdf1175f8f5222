"""How long work tells that it goes on: a function that passes items through and may draw a bar while doing so."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Passed = TypeVar("Passed", covariant=True)


class Counted(Protocol[Passed]):
    """Items that can be passed through once, and how many they are."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Passed]: ...


class Track(Protocol):
    """Yields the items one by one; `doing` says in a few words what is done with them."""

    def __call__(self, items: Counted[Item], doing: str) -> Iterable[Item]: ...


def silent(items: Counted[Item], doing: str) -> Iterable[Item]:
    """Track without showing anything."""
    return items
