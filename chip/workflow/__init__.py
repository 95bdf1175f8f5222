"""The use cases that the Python interface and the command line share: edit, apply, verify, collect, audit.

Each is prepared first (everything is read and checked, nothing is written), shown as a plan, and then carried out. What
writes checkpoints from edit files needs no torch, so that names are looked up only when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chip.workflow.audit import Row
    from chip.workflow.collect import CollectRequest, PreparedCollection, carry_out_collection, prepare_collection
    from chip.workflow.edit import PreparedEdit, carry_out, prepare_edit
    from chip.workflow.request import EditRequest, EditResult

__all__ = [
    "CollectRequest",
    "EditRequest",
    "EditResult",
    "PreparedCollection",
    "PreparedEdit",
    "Row",
    "carry_out",
    "carry_out_collection",
    "prepare_collection",
    "prepare_edit",
]

_HOMES = {
    "audit": ("Row",),
    "collect": ("CollectRequest", "PreparedCollection", "carry_out_collection", "prepare_collection"),
    "edit": ("PreparedEdit", "carry_out", "prepare_edit"),
    "request": ("EditRequest", "EditResult"),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
