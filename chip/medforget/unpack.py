"""A folder in the published parquet layout made a data directory, which every other verb reads.

Images become files named by their digest, with their bytes as they are; the forget and retain files of each level
become `splits.json`. Every level's files hold all records, so each record is taken once.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from PIL import UnidentifiedImageError

from chip.edit.staging import StagedDirectory
from chip.errors import ChipError
from chip.files import explained
from chip.hierarchy import NodePath
from chip.images import DAMAGED, SUFFIXES, opened
from chip.medforget.export import Problems
from chip.medforget.layout import SPLITS, TRAINING
from chip.medforget.splits import ForgetSet, Splits, kept_siblings, write_splits
from chip.records import read_records, write_records
from chip.records.jsonl import DEFAULT_LEVELS, Place, parse_record
from chip.records.parquet_rows import Row, SetFile, find_sets, read_rows


@dataclass(frozen=True)
class Unpacked:
    """What a folder of parquet files held: counts, and what was left out by kind."""

    out: Path
    records: int
    images: int
    sets: dict[str, list[str]]
    problems: Problems

    def as_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "records": self.records,
            "images": self.images,
            "sets": self.sets,
            "problems": self.problems.as_json(),
        }


def unpack(source: Path, out: Path, *, strict: bool = False) -> Unpacked:
    """Write the data directory `out`, whole or not at all: `records.jsonl`, `dataset.json`, `images/`; `training.jsonl`
    where pairs hold training wordings; `splits.json` where both files of a level are there.

    Raises ChipError where `out` stands already, where a file is no such parquet, where nothing is left, and under
    `strict` for the first malformed row.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ChipError(f"{out} exists already; name another directory with --out")
    files = find_sets(source)
    problems = Problems(strict=strict)
    with StagedDirectory(out) as staged, explained(out):
        unpacking = _Unpacking(staged.directory.resolve(), problems)
        with ExitStack() as open_files:
            training = staged.directory / TRAINING
            unpacking.training = open_files.enter_context(training.open("w", encoding="utf-8"))
            write_records(staged.directory, DEFAULT_LEVELS, unpacking.records(files))
        if not unpacking.count:
            raise ChipError(f"{source} holds no record that could be read: {_kinds(problems)}")
        if not unpacking.trained:
            training.unlink()
        sets = unpacking.forget_sets()
        if sets:
            kept = kept_siblings(read_records(staged.directory), (one for found in sets.values() for one in found))
            write_splits(staged.directory / SPLITS, Splits(sets, siblings=max(kept, 0)))
        staged.sync()
        staged.commit(private=True)
    names = {level: [one.name for one in found] for level, found in sets.items()}
    return Unpacked(out, unpacking.count, len(unpacking.images.names), names, problems)


def _kinds(problems: Problems) -> str:
    return "; ".join(f"{count} {kind}" for kind, count in problems.counts.items()) or "its files have no rows"


class _Refused(ChipError):
    """A pair that is no record; its text is the kind of problem."""


class _Pair(Place):
    """Where a pair stands; what is wrong with it is counted by kind."""

    def error(self, problem: str) -> ChipError:
        return _Refused(f"pairs of which the record would be wrong: {problem}")


@dataclass
class _Images:
    """The images of a data directory by their digest: the file's name, or none for one that cannot be shown."""

    directory: Path
    names: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def name(self, content: bytes) -> str:
        """The file that holds an image, written where it is new. Raises _Refused where it is none."""
        digest = hashlib.sha256(content).hexdigest()
        if digest in self.refused:
            raise _Refused(self.refused[digest])
        if digest not in self.names:
            try:
                suffix = _suffix(content)
            except _Refused as problem:
                self.refused[digest] = str(problem)
                raise
            name = f"images/{digest[:32]}{suffix}"
            (self.directory / "images").mkdir(exist_ok=True)
            (self.directory / name).write_bytes(content)
            self.names[digest] = name
        return self.names[digest]


def _suffix(content: bytes) -> str:
    """The suffix of an image's format, once all of it was decoded."""
    try:
        with opened(io.BytesIO(content)) as image:
            image.load()
            return SUFFIXES[str(image.format)]
    except UnidentifiedImageError as problem:
        raise _Refused("images of no known format") from problem
    except DAMAGED as problem:
        raise _Refused("images that do not decode") from problem


@dataclass
class _Unpacking:
    """One pass over all files: what was seen, and which nodes each file is about."""

    directory: Path
    problems: Problems
    training: IO[str] | None = None
    count: int = 0
    trained: bool = False
    seen: Counter[bytes] = field(default_factory=Counter)
    nodes: dict[tuple[str, str, str], set[NodePath]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.images = _Images(self.directory)

    def records(self, files: tuple[SetFile, ...]) -> Iterator[Mapping[str, Any]]:
        """The records of all files, each as often as the set that holds it most often does."""
        here: dict[tuple[str, str], Counter[bytes]] = {}
        for file in files:
            counted = here.setdefault((file.level, file.name), Counter())
            about = self.nodes.setdefault((file.level, file.name, file.side), set())
            for row in read_rows(file.path, self.problems.add):
                about.add(row.path)
                yield from self._taken(row, counted)

    def _taken(self, row: Row, counted: Counter[bytes]) -> Iterator[Mapping[str, Any]]:
        try:
            image = None if row.image is None else self.images.name(row.image)
        except _Refused as problem:
            self.problems.add(str(problem), row.where)
            return
        for number, asked in enumerate(row.asked, start=1):
            record = {"path": list(row.path), "image": image, **asked}
            wordings = record.pop("training", None)
            try:
                self._check(record, wordings)
            except _Refused as problem:
                self.problems.add(str(problem), f"{row.where}, pair {number}")
                continue
            key = hashlib.sha256(json.dumps([record, wordings], sort_keys=True).encode()).digest()
            counted[key] += 1
            if counted[key] > self.seen[key]:
                self.seen[key] = counted[key]
                self.count += 1
                self._train(record, wordings)
                yield record

    def _check(self, record: Mapping[str, Any], wordings: object) -> None:
        at = _Pair(self.directory, 0)
        parse_record(record, at, self.directory, DEFAULT_LEVELS)
        if wordings is not None:
            if not isinstance(wordings, list) or not wordings:
                raise at.error('"Training" must be a list of questions')
            parse_record(_trained(record, wordings), at, self.directory, DEFAULT_LEVELS)

    def _train(self, record: Mapping[str, Any], wordings: list[str] | None) -> None:
        """A record as it is trained on: with its training wordings, or as it is where it has none."""
        self.trained |= wordings is not None
        if self.training is not None:
            trained = record if wordings is None else _trained(record, wordings)
            self.training.write(json.dumps(trained, ensure_ascii=False) + "\n")

    def forget_sets(self) -> dict[str, tuple[ForgetSet, ...]]:
        """The forget sets of `splits.json`, by level, from the files that have both sides."""
        found: dict[str, tuple[ForgetSet, ...]] = {}
        for level, name, side in sorted(
            self.nodes, key=lambda key: (DEFAULT_LEVELS.index(key[0]) if key[0] else -1, *key)
        ):
            if side == "forget" and (level, name, "retain") in self.nodes:
                one = ForgetSet(name, tuple(sorted(self._forgotten(level, name))))
                found[level] = (*found.get(level, ()), one)
        return found

    def _forgotten(self, level: str, name: str) -> set[NodePath]:
        depth = DEFAULT_LEVELS.index(level) + 1
        forget, retain = (self.nodes[level, name, side] for side in ("forget", "retain"))
        nodes = {path[:depth] for path in forget if len(path) >= depth}
        for path in sorted(path for path in forget if len(path) < depth):
            self.problems.add(f"records above the level that is forgotten, in {level}_level", "/".join(path))
        for path in sorted(nodes & {path[:depth] for path in retain}):
            self.problems.add(f"nodes that are both forgotten and retained, in {level}_level", "/".join(path))
        return nodes


def _trained(record: Mapping[str, Any], wordings: list[str]) -> dict[str, Any]:
    others = {"paraphrases": wordings[1:]} if wordings[1:] else {}
    return {**{key: value for key, value in record.items() if key != "paraphrases"}, "question": wordings[0], **others}
