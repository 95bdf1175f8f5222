"""Edits as objects and files, the writer of checkpoints, and receipts. Imports no torch."""

from chip.edit.edit import Change, Edit, load_edit, save_edit
from chip.edit.writer import StagedCheckpoint, refuse_existing

__all__ = ["Change", "Edit", "StagedCheckpoint", "load_edit", "refuse_existing", "save_edit"]
