"""Receipts: what was run on what and how it came out, kept outside the checkpoint, naming no node in clear."""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chip.errors import ChipError
from chip.files import write_private
from chip.hierarchy import NodePath
from chip.version import VERSION

_SALT_BYTES = 32


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
        salt = path.read_bytes()
    except OSError as problem:
        raise ChipError(f"the salt for receipts at {path} cannot be used ({problem}); set CHIP_SALT_FILE") from problem
    if len(salt) < _SALT_BYTES:
        raise ChipError(f"{path} is too short to be a salt; remove it and a new one is made")
    return salt


def hashed_nodes(nodes: Iterable[NodePath], salt: bytes) -> list[str]:
    """HMAC-SHA256 of each node's path under the owner's salt."""
    return [hmac.new(salt, json.dumps(node).encode(), hashlib.sha256).hexdigest() for node in nodes]


def write_receipt(path: Path, content: Mapping[str, Any]) -> None:
    """Write a receipt, mode 0600, with the time and the version of chip."""
    stamp = {"format": "chip-receipt-1", "chip": VERSION, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    write_private(path, (json.dumps({**stamp, **content}, indent=2) + "\n").encode())
