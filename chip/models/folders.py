"""A folder of checkpoints, such as the epochs of a training. Imports no torch."""

from pathlib import Path

from chip.errors import ChipError


def checkpoints_in(path: Path) -> list[Path]:
    """The checkpoint at `path`, or those in it where it is a folder of them, in the order of their names.

    Numbers in names count as numbers: `checkpoint-9` comes before `checkpoint-10`.
    """
    if not path.is_dir():
        raise ChipError(f"{path} is not a directory; give a checkpoint, or a folder of them")
    if (path / "config.json").is_file():
        return [path]
    found = [one for one in path.iterdir() if not one.name.startswith(".") and (one / "config.json").is_file()]
    if not found:
        raise ChipError(f"{path} is no checkpoint (it holds no config.json), and holds none")
    return sorted(found, key=lambda one: (_numbered(one.name), one.name))


def _numbered(name: str) -> tuple[str, int]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0)
