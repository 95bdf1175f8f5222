"""Edits as objects and files, the writer of checkpoints, and receipts. Imports no torch."""

from chip.edit.change import Change, Projected, Redirected
from chip.edit.edit import Edit
from chip.edit.file import load_edit, load_edits, save_edits
from chip.edit.writer import StagedCheckpoint, refuse_existing

__all__ = [
    "Change",
    "Edit",
    "Projected",
    "Redirected",
    "StagedCheckpoint",
    "load_edit",
    "load_edits",
    "refuse_existing",
    "save_edits",
]
