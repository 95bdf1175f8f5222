"""Fuzzing: inputs made from a corpus by seeded mutations of bytes and of JSON, and a guard around what reads them.

A target is a function of a directory and bytes: it lays the bytes down where the reader looks for them and reads. It
may return or raise ChipError; anything else, touching a file outside of the directory, or not coming back, is a
finding. Inputs that were one are kept in tests/fuzz/TARGET, and run first.
"""

import json
import random
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from chip.errors import ChipError

CORPUS = Path(__file__).parent / "fuzz"
Target = Callable[[Path, bytes], None]
Mutation = Callable[[random.Random, bytes], bytes]

_HANGS_AFTER_SECONDS = 20
_TOUCHING = {
    "open": 1, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2, "os.rename": 2, "os.link": 2,
    "os.truncate": 1, "os.chmod": 1,
}  # fmt: skip
"""What Python tells audit hooks of files, and how many of the arguments are paths."""

_NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 8, 2**31, 2**63, 2**64, -(2**63), 10**40, 0.5, -0.0, 1e308, float("inf"),
    float("nan"),
    "", "a", "0", "..", "../../outside", "/etc/passwd", "/dev/zero", "model.safetensors", "a\0b", "\ud800",
    "x" * 300, "F32", "BF16", "F8_E4M3", "I64", "\u202e", [], {}, [[]], [0], [0, 0], [0, 2**63], {"a": 1}, ["a", 1],
)  # fmt: skip


def mutants(seeds: list[bytes], mutate: Mutation, count: int, seed: int) -> Iterator[bytes]:
    """The seeds themselves, then mutants of them until there are `count`; the same ones for the same seed."""
    draw = random.Random(seed)
    yield from seeds[:count]
    for _ in range(count - len(seeds)):
        data = draw.choice(seeds)
        for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
            data = mutate(draw, data)
        yield data


def of_bytes(draw: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat, insert or overwrite some bytes."""
    if not data:
        return draw.randbytes(draw.randrange(1, 40))
    start = draw.randrange(len(data))
    stop = min(len(data), start + draw.choice((1, 1, 2, 4, 8, 64)))
    inserted = draw.choice((b"", b"\0", b"\xff", b'"', b"{", b"}", b"[" * 9, b",", b"\n", b"-", b"9" * 30, b"../"))
    match draw.randrange(5):
        case 0:
            return data[:start] + bytes([data[start] ^ (1 << draw.randrange(8))]) + data[start + 1 :]
        case 1:
            return data[:start] + data[stop:]
        case 2:
            return data[:stop] + data[start:]
        case 3:
            return data[:start]
        case _:
            return data[:start] + inserted + data[draw.choice((start, stop)) :]


def of_json(draw: random.Random, data: bytes) -> bytes:
    """Change one value of a JSON text, or, where it is none and now and then, its bytes."""
    if draw.random() < 0.15:
        return of_bytes(draw, data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(draw, data)
    text = json.dumps(_changed(draw, value))
    if draw.random() < 0.03:
        text = "[" * draw.choice((50, 5_000, 100_000)) + text
    if draw.random() < 0.05:
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    return text.encode("utf-8", "surrogatepass" if draw.random() < 0.5 else "replace")


def of_lines(draw: random.Random, data: bytes) -> bytes:
    """Change one line of JSON lines, or repeat or drop it."""
    lines = data.split(b"\n")
    chosen = draw.randrange(len(lines))
    match draw.randrange(8):
        case 0:
            lines.append(lines[chosen])
        case 1:
            del lines[chosen]
        case _:
            lines[chosen] = of_json(draw, lines[chosen])
    return b"\n".join(lines)


def of_safetensors(draw: random.Random, data: bytes) -> bytes:
    """Change the header as JSON with the length that goes with it, what is packed in its metadata, or the bytes."""
    length = min(len(data), struct.unpack("<Q", data[:8])[0]) if len(data) >= 8 else 0
    header, rest = data[8 : 8 + length], data[8 + length :]
    match draw.randrange(8):
        case 0:
            return of_bytes(draw, data)
        case 1 if length:
            claimed = draw.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1))
            return struct.pack("<Q", claimed) + data[8:]
        case 2 | 3 if b'"chip"' in header:
            header = _inside(draw, header)
        case _:
            header = of_json(draw, header)
    return struct.pack("<Q", len(header)) + header + (rest if draw.random() < 0.9 else rest[: draw.randrange(99)])


def _inside(draw: random.Random, header: bytes) -> bytes:
    try:
        value = json.loads(header)
        value["__metadata__"]["chip"] = of_json(draw, value["__metadata__"]["chip"].encode()).decode(errors="replace")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return of_bytes(draw, header)
    return json.dumps(value).encode("utf-8", "replace")


def _changed(draw: random.Random, value: Any) -> Any:
    """A copy with one place replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(sorted(value))
        match draw.randrange(6):
            case 0:
                return {key: one for key, one in value.items() if key != name}
            case 1:
                return {**value, str(draw.choice(_NASTY)): value[name]}
            case _:
                return {**value, name: _changed(draw, value[name])}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        match draw.randrange(5):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
            case _:
                return [*value[:place], _changed(draw, value[place]), *value[place + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and draw.random() < 0.5:
        return value + draw.choice((-8, -4, -1, 1, 4, 8))
    if isinstance(value, str) and value and draw.random() < 0.4:
        place = draw.randrange(len(value))
        return value[:place] + str(draw.choice(("", "../", "/", "\0", ".", "é", "\ud800"))) + value[place + 1 :]
    return draw.choice(_NASTY)


class Guard:
    """Watches what a target opens, and how long it takes. One for the whole process: an audit hook never goes."""

    def __init__(self) -> None:
        self.inside: Path | None = None
        self.strays: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None or event not in _TOUCHING:
            return
        for path in arguments[: _TOUCHING[event]]:
            # what is named relative to an open directory, as in removing a tree, stays in it unless it climbs out
            here = isinstance(path, str) and path not in ("", "..") and "/" not in path
            if isinstance(path, str) and not here and not _is_under(path, str(self.inside)):
                self.strays.append(f"{event} {path!r}")

    @contextmanager
    def watching(self, directory: Path) -> Iterator[None]:
        """Raises AssertionError where something outside of the directory was touched, or nothing came back in time."""
        self.inside, self.strays = directory, []
        previous = signal.signal(signal.SIGALRM, _hangs)
        signal.setitimer(signal.ITIMER_REAL, _HANGS_AFTER_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            self.inside = None
        assert not self.strays, self.strays


def _is_under(path: str, directory: str) -> bool:
    """Whether a path lies in the directory, or holds code that is imported."""
    return ".." not in Path(path).parts and path.startswith((directory, *filter(None, sys.path), sys.base_prefix))


def _hangs(_: int, __: FrameType | None) -> None:
    raise AssertionError("it does not come back")


GUARD = Guard()


def lay(path: Path, data: bytes) -> None:
    """Write a file anew: a file system may wait for the disk where one is written over."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def attack(target: Target, directory: Path, data: bytes) -> None:
    """One input against one target."""
    try:
        with GUARD.watching(directory), suppress(ChipError):
            target(directory, data)
    except BaseException as finding:
        finding.add_note(f"the input: {data[:2000]!r} ({len(data)} bytes)")
        raise
