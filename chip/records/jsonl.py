"""The records format: one JSON object a line, checked line by line before any model is touched.

`records.jsonl` holds the records, `dataset.json` the names of the levels; docs/formats.md describes both. A directory
may hold the same records in other wordings beside it, in files of the same form.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeGuard

from chip.allowed import MOST_BYTES_A_PIXEL, MOST_IMAGES, allowed_folders, most_pixels
from chip.errors import ChipError
from chip.files import without_repetition
from chip.hierarchy import Hierarchy, NodePath, Record

DEFAULT_LEVELS = ("institution", "patient", "study", "section")


RECORDS = "records.jsonl"

LONGEST_LINE = 16 << 20
"""Bytes of a line; a record of so much text would fill many times the longest context of any model."""
LARGEST_LEVELS = 1 << 20
"""Bytes of `dataset.json`, which names a few levels."""
DEEPEST = 64
"""Levels of a hierarchy."""
LONGEST_NAME = 1000
"""Characters of a node's or a level's name."""


def read_records(directory: str | Path, name: str = RECORDS) -> Hierarchy:
    """Read and validate a data directory. name: of the file in it that is read.

    Raises ChipError, naming file and line, for anything malformed: a line that is no JSON object, an empty or
    non-text name, a path deeper than the levels, a missing question or answer, options without the answer, an image
    that is not there or that lies outside the directory. Images are opened when they are encoded, not here.
    """
    directory = Path(directory)
    source = directory / name
    if not source.is_file():
        raise no_records(directory, name)
    levels, inside = _read_levels(directory / "dataset.json"), directory.resolve()
    records = []
    with source.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                at = Place(source, number)
                records.append(parse_record(_object(line, at), at, inside, levels))
    if not records:
        raise ChipError(f"{source} holds no records")
    return Hierarchy(levels, records)


def no_records(directory: Path, name: str = RECORDS) -> ChipError:
    """Why there are no records at a place, and the next step; it fits a flag and an argument alike."""
    if directory.is_file():
        return ChipError(f"{directory} is a file; name the data directory that holds {name}")
    if not directory.is_dir():
        return ChipError(f"{directory} is not there; name a data directory, which holds {name}")
    if any(directory.glob("*.parquet")) or any(directory.glob("*_level/**/*.parquet")):
        unpack = f"chip medforget unpack {directory} --out DIR"
        return ChipError(f"{directory} holds parquet files; run `{unpack}`, and name DIR as the data directory")
    return ChipError(f"{directory} holds no {name}; name a data directory")


def write_records(directory: str | Path, levels: Sequence[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write `records.jsonl` and `dataset.json`; the images that the records name are the caller's to write."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "dataset.json").write_text(json.dumps({"levels": list(levels)}, indent=2) + "\n", encoding="utf-8")
    with (directory / RECORDS).open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


class Place:
    """Where a record stands, for the errors that name it: a file, and the line or the row in it, from 1."""

    def __init__(self, source: Path, line: int) -> None:
        self.source, self.line = source, line

    def error(self, problem: str) -> ChipError:
        return ChipError(f"{self.source}, line {self.line}: {problem}")


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file; of one that is too long its beginning, so that no more of it is ever held."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line


def _read_levels(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return DEFAULT_LEVELS
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_LEVELS + 1)
        if len(content) > LARGEST_LEVELS:
            raise ChipError(f"{path} has more than {LARGEST_LEVELS:,} bytes; it names the levels and nothing else")
        levels = json.loads(content.decode())["levels"]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise ChipError(f'{path} is not of the form {{"levels": [...]}}: {problem}') from problem
    return checked_levels(levels, path)


def checked_levels(levels: object, where: object) -> tuple[str, ...]:
    """The names of levels, from the root down. Raises ChipError, which begins with where they stand, for what is none,
    for too many, and for names that act or have no end."""
    if not isinstance(levels, list | tuple) or not levels or not all(isinstance(one, str) and one for one in levels):
        raise ChipError(f"{where}: levels must be a list of names, from the root down")
    if len(levels) > DEEPEST:
        raise ChipError(f"{where} names {len(levels)} levels; a hierarchy has at most {DEEPEST}")
    if not all(level.isprintable() and len(level) <= LONGEST_NAME for level in levels):
        raise ChipError(f"{where}: a level's name holds control characters, or more than {LONGEST_NAME} characters")
    return tuple(levels)


def refuse_many_images(count: int, at: Place) -> None:
    """Raise `at.error` where a record shows more images than MOST_IMAGES."""
    if count > MOST_IMAGES:
        raise at.error(f"the record shows {count:,} images; a record shows at most {MOST_IMAGES}, so divide it")


def _object(line: bytes, at: Place) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise at.error(f"the line has more than {LONGEST_LINE:,} bytes; divide the record")
    try:
        value = json.loads(line, object_pairs_hook=without_repetition)
    except (ValueError, RecursionError) as problem:
        raise at.error(f"not a JSON object ({problem})") from problem
    if not isinstance(value, dict):
        raise at.error("not a JSON object")
    return value


def parse_record(value: Mapping[str, Any], at: Place, directory: Path, levels: tuple[str, ...]) -> Record:
    """The record that an object of the format is; `directory`, resolved, holds the images. Raises `at.error`."""
    document = value.get("text")
    if document is not None:
        if not _is_text(document):
            raise at.error('"text" must be text that is not empty')
        if value.get("image") or value.get("images"):
            raise at.error("a document shows no image; make it a question and an answer")
        if "answer" in value:
            raise at.error('has both "text" and "answer"; a record is either a document or a question with its answer')
    return Record(
        path=_path(value.get("path"), at, levels),
        question="" if document is not None else _text(value, "question", at),
        answer="" if document is not None else _text(value, "answer", at),
        images=_images(value, at, directory),
        paraphrases=_paraphrases(value.get("paraphrases"), at),
        text=document,
        options=_options(value, at),
        translations=_translations(value.get("translations"), at),
        line=at.line,
    )


def _path(value: object, at: Place, levels: tuple[str, ...]) -> NodePath:
    if not isinstance(value, list) or not value:
        raise at.error('"path" must be a list of names from the root down, at least one')
    if not all(isinstance(name, str) and name.strip() for name in value):
        raise at.error('every name in "path" must be text that is not empty')
    if any(not name.isprintable() for name in value):
        raise at.error('a name in "path" holds control characters')
    if any(len(name) > LONGEST_NAME for name in value):
        raise at.error(f'a name in "path" is longer than {LONGEST_NAME} characters')
    if any("/" in name for name in value):
        raise at.error('a name in "path" holds "/", which stands between names where nodes are named')
    if len(value) > len(levels):
        raise at.error(
            f"the path has {len(value)} names, but there are only {len(levels)} levels ({', '.join(levels)})"
        )
    return tuple(value)


def _text(value: Mapping[str, object], key: str, at: Place) -> str:
    text = value.get(key)
    if not _is_text(text):
        raise at.error(f'"{key}" must be text that is not empty')
    return text


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that says something and can be written down: half a surrogate pair cannot."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _paraphrases(value: object, at: Place) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(map(_is_text, value)):
        raise at.error('"paraphrases" must be a list of questions')
    return tuple(value)


def _translations(value: object, at: Place) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(_is_text(one) for pair in value.items() for one in pair):
        raise at.error('"translations" must be questions by their language, such as {"de": "…"}')
    return tuple(sorted(value.items()))


def _options(value: Mapping[str, object], at: Place) -> tuple[str, ...]:
    options = value.get("options")
    if options is None:
        return ()
    if not isinstance(options, list) or len(options) < 2 or not all(map(_is_text, options)):
        raise at.error('"options" must be a list of two answers or more')
    said = [" ".join(one.split()) for one in options]
    if len(set(said)) < len(said):
        raise at.error('an answer stands twice in "options"')
    if " ".join(str(value.get("answer")).split()) not in said:
        raise at.error('"options" does not hold the answer')
    return tuple(options)


def _images(value: Mapping[str, object], at: Place, directory: Path) -> tuple[Path, ...]:
    single, several = value.get("image"), value.get("images")
    if single is not None and several is not None:
        raise at.error('has both "image" and "images"; keep one of them')
    names = several if several is not None else [] if single is None else [single]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise at.error("an image must be the name of a file inside the data directory")
    refuse_many_images(len(names), at)
    return tuple(_image(name, at, directory) for name in names)


def _image(name: str, at: Place, directory: Path) -> Path:
    try:
        path = (directory / name).resolve()
        there = path.is_file()
        size = path.stat().st_size if there else 0
    except (OSError, ValueError, RuntimeError) as problem:
        # RuntimeError: links that lead in a circle.
        raise at.error(f"an image's name cannot be the name of a file ({problem.__class__.__name__})") from problem
    if not any(path.is_relative_to(folder) for folder in (directory, *allowed_folders())):
        raise at.error(
            f"the image {name!r} lies outside the data directory; allow the folder that holds it with "
            "`chip --images-from FOLDER VERB …`, before the verb"
        )
    if not there:
        raise at.error(f"the image {name!r} is not there")
    if size > MOST_BYTES_A_PIXEL * most_pixels():
        raise at.error(f"the image {name!r} has {size:,} bytes; --most-pixels allows more")
    return path
