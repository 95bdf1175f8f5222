"""How long work tells that it goes on: a function that passes items through and may draw a bar while doing so."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """Yields the items one by one; `doing` says in a few words what is done with them."""

    def __call__(self, items: Sequence[Item], doing: str) -> Iterable[Item]: ...


def silent(items: Sequence[Item], doing: str) -> Iterable[Item]:
    """Track without showing anything."""
    return items
