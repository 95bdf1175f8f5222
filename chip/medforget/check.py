"""A built data set searched for identifiers: text by pattern, pictures by their looks, files by their parts.

What is found is told by kind and place, never by its text unless that is asked for. Nothing is changed.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chip.errors import ChipError
from chip.images import DAMAGED
from chip.medforget.burned_in import burned_in_file
from chip.medforget.identifier_patterns import DATES, NUMBERED, NUMBERS, USERS
from chip.medforget.identifiers import find_identifiers
from chip.medforget.metadata import DICOM, hidden_parts
from chip.medforget.places import inside
from chip.records.jsonl import RECORDS, no_records
from chip.records.parquet import library
from chip.records.parquet_rows import Row, read_rows

BURNED_IN = "lines of text in pictures"
UNREADABLE = "images that do not decode"
FOREIGN = "files that were not looked into"
MALFORMED = "rows of parquet files that were not looked into"
FIRST = 3
"""Places that are told of each kind, unless all are asked for."""

NOT_FOUND = (
    "names without a title, a role or a degree beside them, and names of places without a street or a ZIP code",
    "who somebody is by the story: rare diseases, occupations, relatives, events, several facts taken together",
    "dates by their name (Easter, the day after admission), times of day, and ages that are spelled out",
    "handwriting, side markers and other signs of one or two letters, and text in pictures that is faint, slanted or "
    "less than about 7 pixels high where the longer side has 1,280",
    "faces: photographs, and surfaces that can be reconstructed from slices of the head",
    "voices, fingerprints and other biometric identifiers, and devices or jewellery that are seen in a picture",
    "identifiers in other languages and scripts than English reports have, and numbers in a form of a hospital's own",
    "whether the ids that nodes are named by are a hospital's own: they stand in paths as they were given",
)
"""What a data set may hold all the same."""

_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".dcm"})
_PARQUET = ".parquet"
_PLAIN = frozenset({".txt", ".md", ".csv", ".tsv", ".toml", ".yaml", ".yml", ".html", ".xml", ".log"})
_USER_KEYS = frozenset({"user", "username", "host", "hostname", "author", "operator"})
_NAMING_KEYS = frozenset({"path", "forget", "image", "images", "nodes"})
"""Keys under which nodes and files are named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that may identify: its kind, and its file with line and key. `text` is the match alone."""

    kind: str
    where: str
    text: str = ""


@dataclass
class Found:
    """All that a check found: by kind how often and where first, and what it looked at. most: places that are kept of
    each kind, None for all."""

    most: int | None = FIRST
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[Finding]] = field(default_factory=dict)
    looked_at: dict[str, int] = field(default_factory=lambda: {"texts": 0, "images": 0, "other files": 0})
    seen: set[bytes] = field(default_factory=set)
    """Digests of images and of parquet rows: each is looked at once, however many files hold it."""
    names: set[str] = field(default_factory=set)
    """Names of nodes that are numbers: options may say those of other patients."""

    @property
    def clean(self) -> bool:
        return not self.counts

    def add(self, finding: Finding) -> None:
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        first = self.first.setdefault(finding.kind, [])
        if self.most is None or len(first) < self.most:
            first.append(finding)

    def as_json(self, *, show: bool = False) -> dict[str, Any]:
        """show: with the matches themselves."""
        found = {
            kind: {
                "count": count,
                "first": [{"where": one.where} | ({"text": one.text} if show else {}) for one in self.first[kind]],
            }
            for kind, count in self.counts.items()
        }
        return {"clean": self.clean, "looked_at": self.looked_at, "found": found, "cannot_find": list(NOT_FOUND)}


def check(directory: Path, most: int | None = FIRST) -> Found:
    """Search every file of a data directory. most: places that are told of each kind, None for all.

    Raises ChipError where it is none, where a line of JSON is none, or where there are parquet files and pyarrow is
    missing. Links that lead out of it are not followed, and told as files that were not looked into.
    """
    root = directory.resolve()
    if not (directory / RECORDS).is_file():
        raise no_records(directory)
    if inside(root, RECORDS) is None:
        raise ChipError(f"{directory} holds no {RECORDS} of its own, but a link; name a data directory")
    found = Found(most)
    for _, value in _lines(directory / RECORDS, RECORDS):
        found.names.update(name for name in _path(value) if name.isdecimal())
    files = (path for path in directory.rglob("*") if path.is_file() or path.is_symlink())
    # Images that are files before those in parquet, so that what is in both is told of the file.
    for path in sorted(files, key=lambda path: (path.suffix.lower() == _PARQUET, path)):
        name = str(path.relative_to(directory))
        if inside(root, name) is None:
            found.looked_at["other files"] += 1
            found.add(Finding(FOREIGN, name))
        elif path.is_file():
            for finding in _file(path, name, found):
                found.add(finding)
    return found


def _file(path: Path, name: str, found: Found) -> Iterator[Finding]:
    if path.suffix == ".jsonl":
        for where, value in _lines(path, name):
            yield from _json(value, where, found)
    elif path.suffix == ".json":
        yield from _json(_parsed(path.read_bytes(), name), name, found)
    elif path.suffix.lower() in _PLAIN:
        with path.open(encoding="utf-8", errors="replace") as plain:
            for number, text in enumerate(plain, start=1):
                found.looked_at["texts"] += 1
                yield from (
                    Finding(one.kind, f"{name}, line {number}", one.text) for one in _text(text, "", (), found.names)
                )
    elif path.suffix.lower() in _IMAGES:
        yield from _image(path.read_bytes(), name, found)
    elif path.suffix.lower() == _PARQUET:
        yield from _parquet(path, name, found)
    else:
        found.looked_at["other files"] += 1
        with path.open("rb") as handle:
            yield Finding(DICOM if handle.read(132)[128:] == b"DICM" else FOREIGN, name)


def _parquet(path: Path, name: str, found: Found) -> Iterator[Finding]:
    """What the rows of a file in the published layout hold; a file that is none was not looked into.

    Raises ChipError where pyarrow is missing.
    """
    library()
    left_out: list[str] = []
    try:
        for row in read_rows(path, lambda _, where: left_out.append(where)):
            where = row.where.removeprefix(f"{path}, ")
            yield from _row(row, f"{name}, {where}", found)
    except ChipError:
        found.looked_at["other files"] += 1
        yield Finding(FOREIGN, name)
    for where in left_out:
        yield Finding(MALFORMED, where.replace(str(path), name, 1))


def _row(row: Row, where: str, found: Found) -> Iterator[Finding]:
    record = {"path": list(row.path), "asked": [dict(one) for one in row.asked]}
    try:
        digest, texts = _digest(json.dumps(record, sort_keys=True).encode()), list(_texts(record))
    except RecursionError:
        yield Finding(MALFORMED, where)
        return
    if digest not in found.seen:
        found.seen.add(digest)
        yield from _told(record, texts, where, found)
    if row.image is not None and _digest(row.image) not in found.seen:
        yield from _image(row.image, where, found)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _lines(path: Path, name: str) -> Iterator[tuple[str, object]]:
    """The values of a file of JSON lines, and where each stands."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{name}, line {number}"
                yield where, _parsed(line, where)


def _parsed(content: bytes, where: str) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise _no_json(where) from problem


def _json(value: object, where: str, found: Found) -> Iterator[Finding]:
    try:
        texts = list(_texts(value))
    except RecursionError as problem:
        raise _no_json(where) from problem
    yield from _told(value, texts, where, found)


def _no_json(where: str) -> ChipError:
    return ChipError(f"{where}: not JSON; put it right, or take it out of the data set")


def _told(value: object, texts: Sequence[tuple[str, str]], where: str, found: Found) -> Iterator[Finding]:
    """What is found in a JSON value, of which these are the texts."""
    own = _path(value)
    for key, text in texts:
        found.looked_at["texts"] += 1
        for finding in _text(text, key, own, found.names):
            yield Finding(finding.kind, f"{where}, {key}" if key else where, finding.text)


def _path(value: object) -> list[str]:
    """The names of the nodes that a record is about; none where a value is no record."""
    names = value.get("path") if isinstance(value, dict) else None
    return [one for one in names if isinstance(one, str)] if isinstance(names, list) else []


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """All the text that a JSON value holds, its keys too, each under the key it stands at."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, key)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield key, name
            yield from _texts(one, name)


def _text(text: str, key: str, own: Sequence[str], names: Set[str]) -> Iterator[Finding]:
    """What is found in one text. own: the names of the nodes that a record is about, which it may say in part; names:
    those of all nodes that are numbers, which any may say whole."""
    if key.lower() in _USER_KEYS and text.strip():
        yield Finding(USERS, "", text)
        return
    for match in find_identifiers(text):
        said = text[match.start : match.stop]
        named = key in _NAMING_KEYS or any(said in name for name in own)
        # Digits alone are no date where a node is named by them: MIMIC's own ids look like some.
        date = match.kind == DATES and said.isdigit()
        if (named and (date or match.kind in NUMBERED)) or (said in names and (date or match.kind == NUMBERS)):
            continue
        yield Finding(match.kind, "", said)


def _image(content: bytes, name: str, found: Found) -> Iterator[Finding]:
    found.looked_at["images"] += 1
    found.seen.add(_digest(content))
    try:
        kinds = hidden_parts(content)
        yield from (Finding(kind, name) for kind in kinds)
        if DICOM in kinds:
            return
        boxes = burned_in_file(content)
    except DAMAGED:
        yield Finding(UNREADABLE, name)
        return
    for box in boxes:
        across, down = round(50 * (box.left + box.right)), round(50 * (box.top + box.bottom))
        yield Finding(BURNED_IN, f"{name}, {across} % across and {down} % down")
