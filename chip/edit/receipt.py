"""Receipts: what was run on what and how it came out, kept outside the checkpoint, naming no node in clear."""

import hashlib
import hmac
import json
import os
import platform
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import chain, count
from pathlib import Path
from typing import Any

from chip.edit.edit import Edit
from chip.edit.proof import Proof
from chip.edit.signature import signature_of
from chip.errors import ChipError
from chip.files import read_small, write_private
from chip.hierarchy import NodePath
from chip.models.matrix import RoundingError
from chip.version import VERSION

FORMAT = "chip-receipt-2"
_SALT_BYTES = 32
_BEARING = ("numpy", "ml_dtypes", "safetensors", "torch", "transformers")


def salt_file() -> Path:
    """Where the owner's salt is kept: `$CHIP_SALT_FILE`, or `chip/salt` in the user's configuration directory."""
    given = os.environ.get("CHIP_SALT_FILE")
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(given) if given else home / "chip" / "salt"


def read_salt() -> bytes:
    """The owner's salt; made on first use, mode 0600. Without it no one can tell which node a receipt is about."""
    path = salt_file()
    try:
        if not path.exists():
            write_private(path, secrets.token_bytes(_SALT_BYTES))
        salt = read_small(path)
    except OSError as problem:
        raise ChipError(f"the salt for receipts at {path} cannot be used ({problem}); set CHIP_SALT_FILE") from problem
    if len(salt) < _SALT_BYTES:
        raise ChipError(f"{path} is too short to be a salt; remove it and a new one is made")
    return salt


def hashed_nodes(nodes: Iterable[NodePath], salt: bytes) -> list[str]:
    """HMAC-SHA256 of each node's path under the owner's salt."""
    return [hmac.new(salt, json.dumps(node).encode(), hashlib.sha256).hexdigest() for node in nodes]


def default_receipt(out: Path, *, in_place: bool = False) -> Path:
    """Where a receipt is kept unless somebody says otherwise: beside the output.

    Of a model that is edited in place again and again, each receipt has a number: none takes the place of another.
    """
    first = out.with_name(out.name + ".receipt.json")
    if not in_place:
        return first
    numbered = (out.with_name(f"{out.name}.receipt-{number}.json") for number in count(2))
    return next(path for path in chain([first], numbered) if not path.exists())


def described(
    edits: Sequence[Edit], proof: Proof | None, copied: str, rounding: RoundingError | None = None
) -> dict[str, Any]:
    """What every receipt says: the edits, the digests before and after, and what was proved of the rest; of fp8, what
    rounding took."""
    before = {name: digest for edit in reversed(edits) for name, digest in edit.base.items()}
    after = {name: digest for edit in edits for name, digest in edit.edited.items()}
    return {
        "edits": [
            {
                "identity": edit.identity,
                "after": list(edit.after),
                "method": edit.method,
                "settings": dict(edit.settings),
                "nodes": list(edit.nodes),
                "transferred": edit.transferred,
                "changes": [{"tensor": one.tensor, "rank": one.rank_bound} for one in edit.changes],
            }
            for edit in edits
        ],
        "tensors": {name: {"before": before.get(name), "after": digest} for name, digest in sorted(after.items())},
        "copied": copied,
        "proof": None if proof is None else asdict(proof),
        "rounding": None
        if rounding is None or not rounding.meant
        else {"relative": rounding.relative, "of_change": rounding.of_change},
    }


def versions() -> dict[str, str]:
    """The versions of what bears on the bytes that are written, as far as it is installed."""
    found = {"python": platform.python_version(), "chip": VERSION}
    for name in _BEARING:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def write_receipt(path: Path, content: Mapping[str, Any], sign: Path | None = None) -> None:
    """Write a receipt, mode 0600, with the time and the versions; signed with the private key in `sign`, if given."""
    stamp = {"format": FORMAT, "time": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
    whole = {**stamp, **content}
    if sign is not None:
        whole["signature"] = signature_of(whole, sign)
    write_private(path, (json.dumps(whole, indent=2) + "\n").encode())


def read_receipt(path: Path) -> dict[str, Any]:
    """A receipt that has the form that docs/receipt.schema.json gives. Raises ChipError where it has not."""
    try:
        content = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError) as problem:
        raise ChipError(f"{path} is no receipt that can be read: {problem}") from problem
    # Not needed to write a receipt, and slow to import.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    schema = json.loads(files("chip.edit").joinpath("receipt.schema.json").read_bytes())
    odd = best_match(Draft202012Validator(schema).iter_errors(content))
    if odd is not None:
        # What stands there may be anything, so that it is not repeated.
        raise ChipError(f"{path} is no receipt that chip wrote: {odd.json_path} breaks the rule {odd.validator!r}")
    receipt: dict[str, Any] = content
    return receipt
