"""What an edited checkpoint carries along, and where it may be written."""

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from chip.errors import ChipError
from chip.files import refuse_foreign, written_by_chip
from chip.models.checkpoint import INDEX, PICKLES, Checkpoint

_TRAINING = ("optimizer", "scheduler", "rng_state", "training_args", "trainer_state")
_TELLING = {
    *PICKLES,
    ".safetensors",
    ".gguf",
    ".ggml",
    ".h5",
    ".msgpack",
    ".onnx",
    ".npz",
    ".npy",
    ".tar",
    ".zip",
    ".receipt",
}


def refuse_existing(out: Path, base: Path, *, force: bool) -> None:
    """Raise ChipError where `out` may not be written: it exists (unless `force` and it is a checkpoint), or is the
    base itself or something inside or around it."""
    here, there = out.resolve(), base.resolve()
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        raise ChipError(f"the output {out} and the model {base} overlap; write beside the model, not over it")
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise ChipError(f"{out} exists already; choose another --out, or replace it with --force")
    if out.is_symlink() or not (out / "config.json").is_file():
        raise ChipError(f"{out} exists and is not a checkpoint, so --force does not replace it; choose another --out")


def refuse_inside(files: Mapping[str, Path | None], checkpoints: Iterable[Path]) -> None:
    """Raise ChipError where a file, by its flag, would lie inside a checkpoint, which would then tell more than a
    released one may, or would replace a file that chip did not write."""
    for flag, path in ((flag, path) for flag, path in files.items() if path is not None):
        for checkpoint in checkpoints:
            if path.resolve().is_relative_to(checkpoint.resolve()):
                raise ChipError(f"{flag} {path} lies inside {checkpoint}; it must stay outside of what is released")
        refuse_foreign(path)


def files_carried(checkpoint: Checkpoint) -> list[Path]:
    """The files that an edited checkpoint takes over, in the order of their names; links count as what they lead to."""
    left_behind = set(files_left_behind(checkpoint))
    return [path for path in _entries(checkpoint) if str(path.relative_to(checkpoint.directory)) not in left_behind]


def files_left_behind(checkpoint: Checkpoint) -> list[str]:
    """What an edited checkpoint does not carry, relative to its directory.

    Whatever may hold the weights as they were before: other weight files, pickles, checkpoints of the training within
    the directory, archives, hidden files; optimizer states and receipts; what is no file: links to directories, links
    to nothing, pipes and devices; and links to files that are not the model's, which nobody meant to release.
    """
    own, root = set(checkpoint.files), checkpoint.directory
    homes = {root.resolve(), (root / "config.json").resolve().parent}
    return [
        str(name)
        for path in _entries(checkpoint)
        if path not in own
        and (
            _stays_behind(name := path.relative_to(root))
            or not path.is_file()
            or _leads_away(path, homes)
            or _is_ours(path)
        )
    ]


def _leads_away(path: Path, homes: Set[Path]) -> bool:
    """Whether a link leads out of the model: out of its directory, and out of where its config lies, as the files of a
    hub cache and of a directory of links do."""
    return path.is_symlink() and not any(path.resolve().is_relative_to(home) for home in homes)


def _entries(checkpoint: Checkpoint) -> Iterator[Path]:
    """Everything below the checkpoint's directory but directories."""

    def refuse(problem: OSError) -> None:
        raise ChipError(f"{problem.filename} cannot be read ({problem.strerror}); make it readable, or take it out")

    for parent, directories, names in os.walk(checkpoint.directory, onerror=refuse):
        directories.sort()
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in sorted([*names, *links]))


def _is_ours(path: Path) -> bool:
    """Whether a file is chip's own: a receipt, a ledger or a summary, by whatever name."""
    return path.suffix in (".json", ".toml") and (path.name == "chip.toml" or written_by_chip(path))


def _stays_behind(name: Path) -> bool:
    telling = not _TELLING.isdisjoint(name.suffixes) and str(name) != INDEX
    hidden = any(part.startswith((".", "checkpoint-")) for part in name.parts)
    return telling or hidden or name.name.startswith(_TRAINING)
