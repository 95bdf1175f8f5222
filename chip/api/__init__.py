"""The Python interface: `edit`, and the nouns `Edit`, `Statistics` and `Audit`; docs/python.md shows each at work.

Whatever takes a model takes its directory or the loaded model with its processor, and whatever takes records takes
their directory or a list of them. What lies below this room is chip's own and may change.
"""

from typing import TYPE_CHECKING

from chip.lazy import lazy_names

if TYPE_CHECKING:
    from chip.api.auditing import Audit
    from chip.api.editing import Edit, edit
    from chip.api.statistics import Statistics

__all__ = ["Audit", "Edit", "Statistics", "edit"]

__getattr__ = lazy_names(
    __name__, {".auditing": ["Audit"], ".editing": ["Edit", "edit"], ".statistics": ["Statistics"]}
)
