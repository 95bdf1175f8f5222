"""Names of the target in a release: as text in its files, and as tokens of its vocabulary."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chip.audit.exam import Exam
from chip.hierarchy import Record, is_under
from chip.models.stored import read_header

SHORTEST = 4
"""Shorter words stand everywhere by chance."""

_WORD = re.compile(r"\w[\w.\-/]*\w")
_NAMING = re.compile(r"[^\W\d_a-z]|\d{6}")
_VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
"""Files that hold the vocabulary, which is looked at as such."""

_MOST_BYTES = 64 << 20
"""Of a file that is no checkpoint's shard, at most so much is searched."""


def node_names(exam: Exam) -> tuple[str, ...]:
    """Names of the target and of the nodes below it that no retained node bears."""
    retained = {name for place in exam.split.retain for name in exam.hierarchy.paths[place]}
    own = {
        name
        for record in exam.target.records
        for target in exam.split.targets
        if is_under(record.path, target)
        for name in record.path[len(target) - 1 :]
    }
    return tuple(sorted(own - retained))


def own_words(exam: Exam) -> tuple[str, ...]:
    """Words of the target's questions and answers that hold a capital, or six digits, and stand in nothing that is
    retained, in any spelling."""
    known = {word.casefold() for place in exam.split.retain for word in _words(exam.hierarchy.records[place])}
    own = {word for record in exam.target.records for word in _words(record) if _NAMING.search(word)}
    return tuple(sorted(word for word in own if word.casefold() not in known and len(word) >= SHORTEST))


def files_naming(directory: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """By file of a release, the names that stand in it as words; files that name nothing are left out.

    Of weights the headers are searched, since their numbers are no text; vocabularies are not searched here.
    """
    spelled = _spelled(names)
    found = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in _VOCABULARY):
        named = sorted(set(spelled.findall(_text(path)))) if names else []
        if named:
            found[str(path.relative_to(directory))] = named
    return found


def single_tokens(tokenizer: Any, names: Iterable[str]) -> tuple[str, ...]:
    """The names that are one token of a vocabulary, at the beginning of a text or after a space."""
    return tuple(name for name in names if any(len(tokens) == 1 for tokens in _spellings(tokenizer, name)))


def _spellings(tokenizer: Any, name: str) -> Iterator[list[int]]:
    for spelling in (name, f" {name}"):
        tokens: list[int] = tokenizer(spelling, add_special_tokens=False)["input_ids"]
        # A tokenizer that knows none of it says so by its unknown token, which is no name.
        yield [] if tokenizer.unk_token_id in tokens else tokens


def _words(record: Record) -> Iterator[str]:
    for text in (record.question, record.answer, record.text or "", *record.paraphrases, *record.path):
        yield from _WORD.findall(text)


def _spelled(names: Sequence[str]) -> re.Pattern[str]:
    either = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)")


def _text(path: Path) -> str:
    """What of a file may be text."""
    if path.suffix == ".safetensors":
        header = read_header(path)
        return "\n".join(
            [
                *(tensor.name for tensor in header.tensors),
                *(f"{key}\n{value}" for key, value in header.metadata.items()),
            ]
        )
    with path.open("rb") as handle:
        return handle.read(_MOST_BYTES).decode("utf-8", errors="replace")
