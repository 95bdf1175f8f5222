"""Edits as objects and files, the writer of checkpoints, and receipts. Imports no torch."""

from typing import TYPE_CHECKING

from chip.lazy import lazy_names

if TYPE_CHECKING:
    from chip.edit.change import Change, Projected, Redirected
    from chip.edit.edit import Edit
    from chip.edit.file import load_edit, load_edits, save_edits
    from chip.edit.outputs import refuse_existing
    from chip.edit.rewriting import Applying, Restoring
    from chip.edit.writer import CheckpointInPlace, StagedCheckpoint, WrittenCheckpoint, written

__all__ = [
    "Applying",
    "Change",
    "CheckpointInPlace",
    "Edit",
    "Projected",
    "Redirected",
    "Restoring",
    "StagedCheckpoint",
    "WrittenCheckpoint",
    "load_edit",
    "load_edits",
    "refuse_existing",
    "save_edits",
    "written",
]

__getattr__ = lazy_names(
    __name__,
    {
        ".change": ["Change", "Projected", "Redirected"],
        ".edit": ["Edit"],
        ".file": ["load_edit", "load_edits", "save_edits"],
        ".outputs": ["refuse_existing"],
        ".rewriting": ["Applying", "Restoring"],
        ".writer": ["CheckpointInPlace", "StagedCheckpoint", "WrittenCheckpoint", "written"],
    },
)
