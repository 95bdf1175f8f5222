"""Export: an edit file as a PEFT adapter. No model is loaded; of a base, headers and the tensors that are edited."""

from collections.abc import Sequence
from pathlib import Path

from chip.edit import Edit, load_edits
from chip.edit.adapter import Adapted, refuse_directory, write_adapter
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.loading import resolve_model


def export_adapter(edit: Path, directory: Path, *, base: str | None = None, force: bool = False) -> tuple[Adapted, ...]:
    """Write an edit file's edits as one PEFT adapter; returns what it adds to which tensors of the module tree.

    base: the model that it is for, a directory or a hub id in the local cache; the adapter then names it. Raises
    ChipError where that is not the model that the edits were solved on, or where peft cannot carry them.
    """
    refuse_directory(directory, force=force)
    edits = load_edits(edit)
    shapes = {}
    if base is not None:
        checkpoint = Checkpoint(resolve_model(base))
        _refuse_other(edits, checkpoint)
        shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    return write_adapter(edits, directory, shapes=shapes, base=base, force=force)


def _refuse_other(edits: Sequence[Edit], checkpoint: Checkpoint) -> None:
    """Raise ChipError where a tensor is not what the first edit of it was solved on."""
    solved_on: dict[str, str] = {}
    for edit in edits:
        solved_on = {**edit.base, **solved_on}
    for name, digest in solved_on.items():
        stored = checkpoint.tensors.get(name)
        if stored is None or stored.digest() != digest:
            raise ChipError(
                f"{name} of {checkpoint.directory} is not what the edit was solved on; give the model that it was "
                "solved on as --base, or transfer the edit first"
            )
