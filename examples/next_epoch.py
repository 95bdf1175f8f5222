"""Put an edit that was solved on one epoch's checkpoint on another epoch's: derived anew, without any data.

python examples/next_epoch.py demo/model.edit.safetensors epoch-2 epoch-2-forgotten
"""

import sys

import chip


def main(edit: str, model: str, out: str) -> None:
    """Write OUT, and say where its receipt is. What it forgets is to be audited anew."""
    receipt = chip.Edit.load(edit).write(model, out, transfer=True)
    print(f"written: {out}  (receipt: {receipt})")


if __name__ == "__main__":
    main(*sys.argv[1:])
