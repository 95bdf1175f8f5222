"""The use cases that the Python interface and the command line share: edit, collect, audit.

Each is prepared first (everything is read and checked, nothing is written), shown as a plan, and then carried out.
"""

from chip.workflow.audit import Row, audit
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
    "audit",
    "carry_out",
    "carry_out_collection",
    "prepare_collection",
    "prepare_edit",
]
