"""Deriving an edit anew for other weights than those that it was solved on."""

from chip.edit.edit import Edit
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint


def transferred(edit: Edit, base: Checkpoint) -> Edit:
    """The edit derived for the weights of `base`."""
    raise ChipError(f"an edit by the method {edit.method!r} cannot be derived for {base.directory}")
