"""Keep an edit as a PEFT adapter, and load it on the base model.

python examples/adapter.py demo/model demo/model.edit.safetensors ADAPTER
"""

import sys

from peft import PeftModel
from transformers import AutoModelForImageTextToText

import chip


def main(directory: str, file: str, adapter: str) -> None:
    """Write ADAPTER, load it on the model, and say what it holds."""
    chip.Edit.load(file).export(adapter, base=directory)
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(directory), adapter)
    factors = sum("lora_" in name for name, _ in model.named_parameters())
    print(f"{adapter}: {factors} factors on {directory}")


if __name__ == "__main__":
    main(*sys.argv[1:])
