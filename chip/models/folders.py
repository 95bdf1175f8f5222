"""Where checkpoints are: a directory, a folder of them such as the epochs of a training, or the local cache. Imports no
torch."""

from pathlib import Path

from chip.errors import ChipError


def resolve_model(name: str | Path) -> Path:
    """The directory of a model: a local one, or that of a hub id which is already in the local cache."""
    if Path(name).is_dir():
        return Path(name)
    if Path(name).suffix == ".gguf":
        raise ChipError(f"{name} is a file, quantised as GGUF; edit the unquantised model, then convert it again")
    # Loaded here: the hub's client takes half a second, and nearly every model is a directory.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as problem:
        raise ChipError(
            f"{name} is neither a directory nor a model in the local cache; nothing is downloaded"
        ) from problem


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
