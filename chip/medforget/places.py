"""Names and paths that an export gives: which may be the name of a node, and which lie inside the export."""

from pathlib import Path

LONGEST_NAME = 200
"""Characters of an id: more would make no name of a file."""


def is_node_name(name: str) -> bool:
    """Whether an id can be the name of a node, and of a file: it says something, can be printed, has no `/`."""
    return bool(
        name == name.strip() and name and name not in (".", "..") and len(name) <= LONGEST_NAME
        and name.isprintable() and "/" not in name and "\\" not in name
    )  # fmt: skip


def inside(root: Path, name: str) -> Path | None:
    """The path that a name means in a folder, links followed; None where it leaves the folder or is no path at all.

    root: resolved. The file need not be there.
    """
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if path.is_relative_to(root) else None


def shown(name: str) -> str:
    """A name as a summary may print it: signs that cannot be printed become question marks, and no name is long."""
    printable = "".join(sign if sign.isprintable() else "?" for sign in name[:LONGEST_NAME])
    return printable if len(name) <= LONGEST_NAME else f"{printable}…"
