"""Text that comes from others, for a terminal or a page: nothing in it acts, and what would have is seen."""

import json
import unicodedata
from typing import Any

_JOINERS = "\u200c\u200d"


def readable(text: str) -> str:
    """A text without what could act on a terminal or turn a line around: control characters are shown as pictures of
    themselves, other characters that do not print as the replacement character. Line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" or one in _JOINERS else _picture(one) for one in text)


def one_line(text: str) -> str:
    """A readable text on one line, so that nothing in it is taken for a line of chip's own: the line breaks that a name
    holds are shown as pictures of themselves too."""
    return readable(text).replace("\n", "␤")


def _picture(one: str) -> str:
    if unicodedata.category(one) == "Zs":
        return " "
    return chr(0x2400 + ord(one)) if ord(one) < 0x20 else "␡" if one == "\x7f" else "\ufffd"


def plain_json(content: Any) -> str:
    """JSON for people to read, in which whatever does not print stands as its number."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def markdown(text: str) -> str:
    """A text as part of a line of Markdown: no tag, no cell and no line of its own."""
    return " ".join(readable(text).split()).replace("<", "&lt;").replace("|", "\\|")
