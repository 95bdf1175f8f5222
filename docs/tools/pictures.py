"""Makes the tutorial's pictures anew, in docs/pictures: what its commands print, and its report in a browser.

python docs/tools/pictures.py HOSPITAL        (HOSPITAL: what `chip demo HOSPITAL` left; it is copied, not changed)

Needs Chromium for the report.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "pictures"
_COLUMNS = 100
# A picture that asks for nothing: rich's own would fetch a font.
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


@dataclass(frozen=True)
class Shot:
    """One picture of the terminal: its name and the commands that it shows, each with all that it prints."""

    name: str
    commands: tuple[str, ...]


SHOTS = (
    Shot("concepts", ("chip concepts records --forget patient_123 --records 6",)),
    Shot("edit", ("chip edit model --forget patient_123 --edit-out patient_123.edit.safetensors",)),
    Shot("audit", ("chip audit model model-forgotten --forget patient_123 --quick --out report",)),
    Shot(
        "release",
        (
            "chip apply model patient_123.edit.safetensors --out release",
            "chip verify release --against model --edit patient_123.edit.safetensors",
        ),
    ),
)
# Of the report: the first screen, and figures.
FIGURES = ("tree",)
_WINDOW = {"width": 1100, "height": 900}


def draw(
    hospital: Annotated[Path, typer.Argument(help="What `chip demo` left.")],
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = PICTURES,
) -> None:
    """Run the tutorial's commands on a copy of an example hospital and picture what they say."""
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "hospital"
        shutil.copytree(hospital, place)
        for shot in SHOTS:
            _draw_terminal(shot, place, out / f"{shot.name}.svg")
        _draw_report(place / "report" / "report.html", out)


def _draw_terminal(shot: Shot, place: Path, out: Path) -> None:
    console = Console(record=True, width=_COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    for command in shot.commands:
        console.print(Text(f"$ {command}", style="bold green"))
        console.print(Text.from_ansi(_output(command, place)))
    console.save_svg(str(out), title="chip", theme=MONOKAI, code_format=_FORMAT, unique_id=shot.name)


def _output(command: str, place: Path) -> str:
    """What a command prints on a terminal, in its colours. Raises CalledProcessError where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=place,
        env=dict(_terminal(os.environ, place)),
        text=True,
        capture_output=True,
        check=True,
    )
    return done.stdout


def _terminal(environment: Mapping[str, str], place: Path) -> Iterator[tuple[str, str]]:
    """The environment of a terminal, with no settings of the user's own and a salt for these pictures alone."""
    yield from ((name, value) for name, value in environment.items() if not name.startswith(("CHIP_", "XDG_")))
    yield from {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(_COLUMNS)}.items()
    yield "CHIP_SALT_FILE", str(place.parent / "salt")


def _draw_report(page: Path, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport=_WINDOW)
        window.goto(page.as_uri())
        window.screenshot(path=out / "report.png")
        for name in FIGURES:
            window.locator(f"#figure-{name}").screenshot(path=out / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    typer.run(draw)
