"""What attackers send: pictures, records and checkpoints that are not what they say they are."""

import json
import shutil
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chip.cli import main
from chip.errors import ChipError

ESCAPES = "\x1b[2J\x1b]0;x\x07\u202e\x9b31m"
"""Clears a terminal, renames its window, turns the line around, and begins a sequence with a single character."""
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def png(width: int, height: int, *, rows: int | None = None, before: bytes = b"") -> bytes:
    """A black PNG in colour that says that it has this size; `rows` that it holds, `before` chunks that come first."""
    rows = height if rows is None else rows
    pixels = zlib.compress(bytes(1 + 3 * width) * rows)
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def record(name: str = "p0", image: str | None = None, **others: Any) -> dict[str, Any]:
    return {"path": ["i", name], "image": image, "question": "who ?", "answer": "person x", **others}


def copied(model: Path, to: Path, **config: Any) -> Path:
    """A copy of a checkpoint whose config says something else."""
    shutil.copytree(model, to)
    path = to / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return to


def said_by(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """All that `chip` prints, in this process, with whatever it ends with."""
    before, sys.argv = sys.argv, ["chip", *map(str, arguments)]
    try:
        with suppress(SystemExit):
            main()
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return captured.out + captured.err


def sentence_of(caught: pytest.ExceptionInfo[ChipError]) -> str:
    """What the user reads; one line of it."""
    said = str(caught.value)
    assert "\n" not in said
    return said
