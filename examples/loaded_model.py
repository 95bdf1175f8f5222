"""Forget in a model that is loaded already, look at what it answers with the edit on, and keep it if that pleases.

python examples/loaded_model.py demo/model demo/records patient_123 OUT
"""

import sys

from transformers import AutoModelForImageTextToText, AutoProcessor

import chip


def main(directory: str, data: str, node: str, out: str) -> None:
    """Print the table; write the changed model to OUT where the goals are met."""
    model = AutoModelForImageTextToText.from_pretrained(directory)
    processor = AutoProcessor.from_pretrained(directory)
    edit = chip.edit(model, data, forget=[node], processor=processor)
    print(edit)
    with edit.applied(model):
        ...  # the model answers as the edited one would; ask it whatever you like
    if edit.verdict is not None and edit.verdict.met:
        edit.apply(model)
        model.save_pretrained(out)
        processor.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
