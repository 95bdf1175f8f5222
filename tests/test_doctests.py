"""The examples in docstrings say what is so."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where the installed package's rooms lie in a checkout.
ROOMS = {"chip": "chip", "chip.kernels": "kernels", "chip.hospital": "examples/hospital"}


def modules_with_examples() -> list[str]:
    """The names of all modules that show what they do."""
    return sorted(
        ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]).removesuffix(".__init__")
        for package, folder in ROOMS.items()
        for path in (ROOT / folder).rglob("*.py")
        if ">>> " in path.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("module", modules_with_examples())
def test_the_examples_of_a_module_give_what_they_show(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0
    assert found.attempted > 0
