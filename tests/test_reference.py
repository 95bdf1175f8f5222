"""The reference of the command line is what the code says, and the pages name no flag that is not there."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import typer

from chip.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Flags of other programs that pages show: torchrun, accelerate, pip, python benchmarks/….
FOREIGN = {
    "nproc-per-node", "nnodes", "multi_gpu", "num_processes", "constraint",
}  # fmt: skip


def flags_of(command: Any) -> set[str]:
    """The long names of all flags of a verb, or of all verbs of a group."""
    own = {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name.startswith("--")}
    return own.union(*(flags_of(verb) for verb in getattr(command, "commands", {}).values()))


def test_the_committed_reference_is_what_the_code_generates() -> None:
    tool = runpy.run_path(str(ROOT / "docs" / "tools" / "reference.py"))
    assert tool["PAGE"].read_text(encoding="utf-8") == tool["reference"](), "run python docs/tools/reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_that_a_page_names_exists(page: Path) -> None:
    known = flags_of(typer.main.get_command(app)) | {f"--{name}" for name in FOREIGN} | {"--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9]", page.read_text(encoding="utf-8")))
    assert named <= known


@pytest.mark.parametrize("page", ["README.md", "docs/choosing.md"])
def test_the_figures_of_a_page_are_those_of_the_benchmarks(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "docs" / "tools" / "figures.py"))["filled"](text) == text
    assert "<!-- figures: " in text
