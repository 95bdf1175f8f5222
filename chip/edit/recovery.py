"""What a killed run left is put right before the next one begins."""

from pathlib import Path

from chip.edit.journal import recover_model
from chip.edit.staging import recover_output


def recover(model: Path, out: Path) -> str:
    """Put right what an interrupted run left of a model, and at an output; in words, or empty where there was nothing.

    Raises ChipError where a run is still at either.
    """
    said = (recover_model(model) if model.is_dir() else "", recover_output(out))
    return "; ".join(filter(None, said))
