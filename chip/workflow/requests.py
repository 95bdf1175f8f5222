"""Requests of a batch: one JSON object a line, read and checked before anything runs.

docs/formats.md describes the file. A line that is malformed refuses the whole file; whether its nodes are there is seen
request by request.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from chip.errors import ChipError, UsageError
from chip.files import read_small, without_repetition
from chip.settings import EditSettings

_KEYS = ("forget", "out", "settings")
_MOST_LETTERS = 200
MOST_BYTES_REQUESTS = 256 << 20
"""A file of requests may be so long: millions of them."""
_OWN_ENDINGS = (".receipt.json", ".edit.safetensors", ".statistics.safetensors")


@dataclass(frozen=True)
class Asked:
    """One line: what is to be forgotten, under which name it is kept, and the settings, of which it gave `fixed`."""

    line: int
    forget: tuple[str, ...]
    name: str
    settings: EditSettings
    fixed: frozenset[str]


def read_requests(path: Path, reserved: Sequence[str] = ()) -> tuple[Asked, ...]:
    """Read and check all requests. `reserved` are names that none may take.

    Raises ChipError, naming line and key, for what is malformed, for two requests with one name, and for one that
    stands there twice.
    """
    try:
        lines = read_small(path, MOST_BYTES_REQUESTS).split(b"\n")
    except OSError as problem:
        raise ChipError(f"{path} cannot be read: {problem.strerror}; give a file with one request a line") from problem
    asked = tuple(
        _parse(line, _At(path, number), reserved) for number, line in enumerate(lines, start=1) if line.strip()
    )
    if not asked:
        raise ChipError(f'{path} holds no requests; a line such as {{"forget": "patient_123"}} is one')
    _refuse_repeated(asked, path)
    return asked


@dataclass(frozen=True)
class _At:
    """Where a request stands, for the errors that name it."""

    source: Path
    line: int

    def error(self, problem: str) -> ChipError:
        return ChipError(f"{self.source}, line {self.line}: {problem}")


def _parse(line: bytes, at: _At, reserved: Sequence[str]) -> Asked:
    try:
        value = json.loads(line, object_pairs_hook=without_repetition, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as problem:
        raise at.error(f"not a JSON object ({problem})") from problem
    if not isinstance(value, dict):
        raise at.error("not a JSON object")
    if unknown := [key for key in value if key not in _KEYS]:
        raise at.error(f"no key is called {unknown[0]!r}; there are {', '.join(_KEYS)}")
    given = value.get("settings", {})
    return Asked(
        at.line,
        _forget(value.get("forget"), at),
        _name(value.get("out", f"request-{at.line:04}"), at, reserved),
        _settings(given, at),
        frozenset(given),
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _forget(value: Any, at: _At) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise at.error('"forget" must be the name of a node, or a list of names')
    return tuple(names)


def _name(value: Any, at: _At, reserved: Sequence[str]) -> str:
    plain = isinstance(value, str) and value.isprintable() and 0 < len(value.encode()) <= _MOST_LETTERS
    if not plain or "/" in value or "\\" in value or value.startswith("."):
        raise at.error('"out" must be a name inside the output directory: no path, and no leading dot')
    if value in reserved or value.endswith(_OWN_ENDINGS):
        raise at.error(f'"out" may not be {value!r}: chip keeps a file of its own there')
    return str(value)


def _settings(value: Any, at: _At) -> EditSettings:
    if not isinstance(value, dict):
        raise at.error('"settings" must be an object of settings by name')
    kinds = get_type_hints(EditSettings)
    names = [one.name for one in fields(EditSettings)]
    settings: dict[str, Any] = {}
    for name, given in value.items():
        if name not in names:
            raise at.error(f'"settings": no setting is called {name!r}; there are {", ".join(names)}')
        settings[name] = _number(given) if isinstance(given, int) and isinstance(0.0, kinds[name]) else given
        if isinstance(given, bool) is not (kinds[name] is bool) or not isinstance(settings[name], kinds[name]):
            raise at.error(f'"settings": {name} cannot be {json.dumps(given)[:_MOST_LETTERS]}')
    try:
        return EditSettings(**settings)
    except UsageError as problem:
        raise at.error(f'"settings": {problem}') from problem


def _number(whole: int) -> float:
    try:
        return float(whole)
    except OverflowError:
        return math.inf


def _refuse_repeated(asked: Sequence[Asked], path: Path) -> None:
    names: dict[str, int] = {}
    wishes: dict[tuple[tuple[str, ...], EditSettings], int] = {}
    for one in asked:
        # Some file systems do not tell capitals from small letters.
        if (first := names.setdefault(one.name.casefold(), one.line)) != one.line:
            raise ChipError(f'{path}, line {one.line}: "out" is the name of the request on line {first}')
        if (first := wishes.setdefault((tuple(sorted(one.forget)), one.settings), one.line)) != one.line:
            raise ChipError(f"{path}, line {one.line}: the same request stands on line {first}")
