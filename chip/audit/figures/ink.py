"""Ink and paper of the figures: colours that are the page's own, and SVG that can stand in it.

matplotlib knows fixed colours only, so each colour of the page has a stand-in here, a value that is used for nothing
else; what is drawn with one comes out as the page's variable of that name, and follows its light and dark schemes.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from chip.audit.wording import ROLES
from chip.readable import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 3.4
"""Inches of a panel, of which three stand side by side on a wide screen and one fits a phone."""

_COLOURS = {
    "base": "#010b01",
    "edited": "#010b02",
    "gold": "#010b03",
    "ink": "#010b04",
    "faint": "#010b05",
    "grid": "#010b06",
    "paper": "#010b07",
    "other": "#010b08",
    "on-low": "#010b09",
    "on-high": "#010b0a",
}
_HEAT = "#010c"
_TURN = 61
"""Percent of the scale above which text on it has the other colour: at either side its contrast is 4.5 or more."""

MARKS = {"base": "o", "edited": "s", "gold": "D"}
DASHES = {"base": (0, (1, 1.2)), "edited": "-", "gold": (0, (4, 1.6))}

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOURS["faint"],
    "axes.labelcolor": _COLOURS["ink"],
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": _COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": _COLOURS["faint"],
    "ytick.color": _COLOURS["faint"],
    "xtick.labelcolor": _COLOURS["ink"],
    "ytick.labelcolor": _COLOURS["ink"],
    "text.color": _COLOURS["ink"],
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Panel:
    """One picture of a figure: what stands above it, the picture, and what it shows in words and numbers, which the
    page puts below it with the id `NAME-text`. width: in pixels, at most."""

    name: str
    title: str
    svg: str
    text: str
    width: float


@dataclass(frozen=True)
class Key:
    """One entry of a legend: what the mark of a role, or an unnamed one (`mark` is its sign), stands for."""

    role: str
    label: str
    mark: str = ""


@dataclass(frozen=True)
class Drawn:
    """A figure. note: what it shows, or why it shows nothing. columns and rows: its numbers as a table."""

    name: str
    title: str
    note: str
    panels: tuple[Panel, ...] = ()
    keys: tuple[Key, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def colour(name: str) -> str:
    """The stand-in of one of the page's colours."""
    return _COLOURS[name]


def heat(share: float) -> str:
    """The stand-in of a place on the page's scale of colours, 0 to 1."""
    return f"{_HEAT}{round(100 * min(max(share, 0.0), 1.0)):02x}"


def on_heat(share: float) -> str:
    """The colour of text that stands on that place."""
    return colour("on-high" if 100 * share > _TURN else "on-low")


def cut(name: str, letters: int) -> str:
    """A name in a line of so many letters."""
    plain = readable(name).replace("\n", " ").replace("\t", " ")
    return plain if len(plain) <= letters else f"{plain[: max(letters - 1, 1)]}…"


def role_keys(roles: Sequence[str]) -> tuple[Key, ...]:
    """The legend of the models of an audit."""
    return tuple(Key(role, ROLES[role]) for role in ROLES if role in roles)


@contextmanager
def canvas(
    height: float, width: float = WIDTH, layout: Literal["constrained"] | None = "constrained"
) -> Iterator["Figure"]:
    """An empty figure of so many inches, and matplotlib's settings for as long as it is drawn on."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # The page's fonts draw the text, so it does not matter which letters matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield Figure(figsize=(width, height), layout=layout)


def panel(figure: "Figure", name: str, title: str, text: str) -> Panel:
    """What was drawn, as SVG to stand inside a page; `name` is unique in that page."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = BytesIO()
    with rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    width, height = (float(one) for one in figure.get_size_inches() * 72)
    root = ElementTree.fromstring(stream.getvalue())
    _strip(root)
    _rename(root, name)
    root.attrib = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-text",
    }
    named = ElementTree.Element("title", {"id": f"{name}-title"})
    named.text = readable(title)
    root.insert(0, named)
    return Panel(name, title, ElementTree.tostring(root, encoding="unicode"), text, round(width / 72 * 100))


def _strip(root: ElementTree.Element) -> None:
    """Take out what a page does not need: name spaces, metadata, style sheets, and ids that nothing refers to."""
    for element in list(root.iter()):
        for child in list(element):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                element.remove(child)
        if element.tag.rpartition("}")[2] != "text":
            element.text = None
        element.tail = None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: _simple(value) for key, value in element.attrib.items()}
    used = {one for element in root.iter() for value in element.attrib.values() for one in _references(value)}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Put the figure's name before every id."""
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif _references(value):
                element.set(key, value.replace("#", f"#{name}-", 1))


def _references(value: str) -> list[str]:
    return re.findall(r"(?:^|url\()#([\w-]+)\)?$", value)


def _simple(value: str) -> str:
    """An attribute in the page's colours and font, its figures rounded to what a screen can show."""
    for name, stand_in in _COLOURS.items():
        value = value.replace(stand_in, f"var(--{name})")
    value = re.sub(r"#010c([0-9a-f]{2})", lambda found: _mixed(int(found[1], 16)), value)
    value = re.sub(r"font-family: [^;]+;? ?", "", value)
    return re.sub(r"(\d\.\d\d)\d+", r"\1", value)


def _mixed(percent: int) -> str:
    return f"color-mix(in oklab, var(--low), var(--high) {percent}%)"
