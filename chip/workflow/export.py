"""`chip export`: an edit file in the form that other tools load. Loads no model and imports no torch."""

from pathlib import Path

from chip.edit import load_edits
from chip.edit.adapter import Adapted, refuse_directory, write_adapter
from chip.edit.chain import fitting
from chip.errors import UsageError
from chip.models.checkpoint import Checkpoint


def export_adapter(
    edit: Path, directory: Path, *, base: Path | None = None, transfer: bool = False, force: bool = False
) -> tuple[Adapted, ...]:
    """Write an edit file's edits as one PEFT adapter; returns what it adds to which tensors of the module tree.

    base: the checkpoint that it is for, which the adapter then names. Where the edits were solved on another one they
    are derived anew for it with `transfer`. Raises ChipError where they do not fit it, or where peft cannot carry them.
    """
    if transfer and base is None:
        raise UsageError("--transfer derives the edit anew for a model: give it with --base")
    refuse_directory(directory, force=force)
    edits, shapes = load_edits(edit), {}
    if base is not None:
        checkpoint = Checkpoint(base)
        edits = fitting(checkpoint, edits, transfer=transfer)
        shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    return write_adapter(edits, directory, shapes=shapes, base=None if base is None else str(base), force=force)
