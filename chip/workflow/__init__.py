"""The use cases that the Python interface and the command line share: edit, batch, apply, verify, collect, audit and
concepts.

Each is prepared first (everything is read and checked, nothing is written), shown as a plan, and then carried out. What
writes checkpoints from edit files needs no torch, so that names are looked up only when they are asked for.
"""

from typing import TYPE_CHECKING

from chip.lazy import lazy_names

if TYPE_CHECKING:
    from chip.workflow.asking import Row
    from chip.workflow.audit import AuditRequest, AuditResult, carry_out_audit
    from chip.workflow.batch import BatchRequest, PreparedBatch, prepare_batch
    from chip.workflow.batch_run import BatchResult, carry_out_batch
    from chip.workflow.collect import CollectRequest, PreparedCollection, carry_out_collection, prepare_collection
    from chip.workflow.concepts import ConceptsRequest, ShownConcepts, show_concepts
    from chip.workflow.edit import carry_out, prepare_edit
    from chip.workflow.prepared import PreparedEdit
    from chip.workflow.request import EditRequest, EditResult

__all__ = [
    "AuditRequest",
    "AuditResult",
    "BatchRequest",
    "BatchResult",
    "CollectRequest",
    "ConceptsRequest",
    "EditRequest",
    "EditResult",
    "PreparedBatch",
    "PreparedCollection",
    "PreparedEdit",
    "Row",
    "ShownConcepts",
    "carry_out",
    "carry_out_audit",
    "carry_out_batch",
    "carry_out_collection",
    "prepare_batch",
    "prepare_collection",
    "prepare_edit",
    "show_concepts",
]

__getattr__ = lazy_names(
    __name__,
    {
        ".asking": ["Row"],
        ".audit": ["AuditRequest", "AuditResult", "carry_out_audit"],
        ".batch": ["BatchRequest", "PreparedBatch", "prepare_batch"],
        ".batch_run": ["BatchResult", "carry_out_batch"],
        ".collect": ["CollectRequest", "PreparedCollection", "carry_out_collection", "prepare_collection"],
        ".concepts": ["ConceptsRequest", "ShownConcepts", "show_concepts"],
        ".edit": ["carry_out", "prepare_edit"],
        ".prepared": ["PreparedEdit"],
        ".request": ["EditRequest", "EditResult"],
    },
)
