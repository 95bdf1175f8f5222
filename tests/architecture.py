"""Draws docs/architecture.svg: the rooms of chip as a house, floor by floor, from the contracts of pyproject.toml.

python tests/architecture.py
"""

import re
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH, FLOOR, GAP, ROOF, MARGIN = 960, 34, 4, 70, 20
ROOM = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)
COLOURS = {"roof": "#7a3b2e", "wall": "#f4efe6", "edge": "#8c7b65", "ground": "#dfe8df", "ink": "#2b2622"}


def floors() -> list[list[str]]:
    """The rooms of each floor, from the roof to the ground, as the first contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[room.strip(" ()") for room in floor.split("|")] for floor in layers]


def purposes() -> dict[str, str]:
    """What each room is for, as the table of ARCHITECTURE.md says it, in its order."""
    return dict(ROOM.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")))


def draw() -> str:
    """The picture: a floor for each layer, rooms side by side where they may not import from each other."""
    what, rows = purposes(), floors()
    height = MARGIN * 2 + ROOF + len(rows) * (FLOOR + GAP) + 30
    middle, eaves = WIDTH // 2, MARGIN + ROOF
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" role="img">',
        "<title>The rooms of chip, floor by floor: each imports from those below it</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<path d="M{MARGIN} {eaves} L{middle} {MARGIN} L{WIDTH - MARGIN} {eaves} Z" fill="{COLOURS["roof"]}"/>',
        f'<text x="{middle}" y="{eaves - 14}" text-anchor="middle" font-size="18" fill="white">chip</text>',
    ]
    for number, rooms in enumerate(rows):
        top = eaves + GAP + number * (FLOOR + GAP)
        parts += _floor(rooms, top, what, ground=number >= len(rows) - 3)
    below = height - MARGIN
    told = "a room imports from the floors below it, and from no room beside it or above"
    parts.append(
        f'<text x="{middle}" y="{below}" text-anchor="middle" font-size="13" fill="{COLOURS["ink"]}">{told}</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _floor(rooms: list[str], top: int, what: dict[str, str], *, ground: bool) -> list[str]:
    """Rooms as wide as their names ask for; what they are for where there is space."""
    space, letters = WIDTH - 4 * MARGIN - GAP * (len(rooms) - 1), sum(len(room) + 4 for room in rooms)
    parts, size, left = [], 15 if len(rooms) < 5 else 12, 2.0 * MARGIN
    for room in rooms:
        wide = space / len(rooms) if len(rooms) < 5 else space * (len(room) + 4) / letters
        fill = COLOURS["ground" if ground else "wall"]
        purpose = escape(what[room].replace("`", "").split(":")[0]) if len(rooms) < 3 else ""
        note = (
            f'  <tspan font-size="12" font-weight="normal" fill="{COLOURS["edge"]}">{purpose}</tspan>'
            if purpose
            else ""
        )
        parts += [
            f'<rect x="{left:.0f}" y="{top}" width="{wide:.0f}" height="{FLOOR}" fill="{fill}"'
            f' stroke="{COLOURS["edge"]}"/>',
            f'<text x="{left + 10:.0f}" y="{top + 22}" font-size="{size}" font-weight="bold" fill="{COLOURS["ink"]}">'
            f"{room}{note}</text>",
        ]
        left += wide + GAP
    return parts


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
