"""What was worked out for a request once, and holds for every strength that is tried on it."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Made = TypeVar("Made")


class Memo:
    """Values by what they depend on, beside the model, the records and the statistics, which stay the same.

    A key names the value and the settings that it depends on, and nothing else may bear on it: neither an edit that is
    under way nor the sites that one trial chooses among those of the request.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The value of a key, made at its first use."""
        if key not in self._kept:
            self._kept[key] = make()
        value: Made = self._kept[key]
        return value
