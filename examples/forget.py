"""Forget a patient and keep all that belongs to it: the checkpoint, its receipt, the edit.

python examples/forget.py demo/model demo/records patient_123
"""

import sys
from pathlib import Path

import chip


def main(model: str, data: str, node: str) -> None:
    """Write MODEL-forgotten with its receipt, and the edit beside them; print what became of it."""
    edit = chip.edit(model, data, forget=[node])
    edit.save(Path(f"{model}.edit.safetensors"))
    print(edit)
    if edit.verdict is not None and not edit.verdict.met:
        raise SystemExit("the goals were missed: read docs/tuning.md before this checkpoint is released")


if __name__ == "__main__":
    main(*sys.argv[1:])
