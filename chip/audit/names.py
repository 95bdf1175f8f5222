"""Names of the target in a release: as text in its files, and as tokens of its vocabulary.

A name that stands in a release is a leak, even where the model before has it in the same file: its owner wrote both
from the same data. No evidence are names that any model of the kind would show (`telling`): those shorter than four
characters; and those that stand, as words, in the names of the base's tensors, or in the keys, the numbers and the
values that name a kind (`model_type`, `pad_token`, …) of its configuration files, or in the code of its chat template.
Other values there are evidence, such as the path of the records in a config, and so are the labels of a classifier.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chip.audit.exam import Exam
from chip.hierarchy import Record, is_under
from chip.models.checkpoint import Checkpoint
from chip.models.stored import read_header, read_json

SHORTEST = 4
"""Shorter words stand everywhere by chance."""

_WORD = re.compile(r"\w[\w.\-/]*\w")
_NAMING = re.compile(r"[^\W\d_a-z]|\d{6}")
_ESCAPE = re.compile(r'(?:\\u[0-9a-fA-F]{4})+|\\["\\/bfnrt]')
_VOCABULARY = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that hold the vocabulary, which is looked at as such."""

_CONFIGURATION = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_KINDS = re.compile(r"(?:_type|_class|_act|_token|_implementation|dtype|architectures|activation|backend)$")
_CODE = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
_LABELS = ("id2label", "label2id")

_ASCII = bytes(one if 32 <= one < 127 else 32 for one in range(256))
"""What is read of a binary file, such as weights beside the shards, which would take minutes as UTF-8."""

_CHUNK = 1 << 24
"""Characters of a file that are searched at once."""


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


def telling(names: Iterable[str], base: Checkpoint) -> tuple[str, ...]:
    """The names that tell something where they stand in a release; see above which do not."""
    long = [name for name in names if len(name) >= SHORTEST]
    usual = _named(_Spelled(long), ["\n".join(_usual(base))])
    return tuple(name for name in long if name not in usual)


def files_naming(directory: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """By file of a release, the names that stand in it or in its own name as words, in whatever case, composed or not,
    as JSON escapes or not; files that name nothing are left out.

    Of weights the headers are searched, since their numbers are no text, and of other binary files what is ASCII;
    vocabularies are not searched here.
    """
    spelled = _Spelled(names)
    found = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        place = str(path.relative_to(directory))
        texts = [] if path.name in _VOCABULARY else _texts(path)
        named = _named(spelled, [place]) | _named(spelled, texts)
        if named:
            found[place] = sorted(named)
    return found


def single_tokens(tokenizer: Any, names: Iterable[str]) -> tuple[str, ...]:
    """The names that are one token of a vocabulary, at the beginning of a text or after a space, or stand as words in a
    token that was added to it."""
    names = tuple(names)
    added = _named(_Spelled(names), ["\n".join(tokenizer.get_added_vocab())])
    return tuple(name for name in names if name in added or any(len(one) == 1 for one in _spellings(tokenizer, name)))


def _spellings(tokenizer: Any, name: str) -> Iterator[list[int]]:
    for spelling in (name, f" {name}"):
        tokens: list[int] = tokenizer(spelling, add_special_tokens=False)["input_ids"]
        # A tokenizer that knows none of it says so by its unknown token, which is no name.
        yield [] if tokenizer.unk_token_id in tokens else tokens


def _words(record: Record) -> Iterator[str]:
    for text in (record.question, record.answer, record.text or "", *record.paraphrases, *record.path):
        yield from _WORD.findall(text)


class _Spelled:
    """Names as words: next to a letter or digit a name is a part of another word, and `study_1` is not in `study_1_0`,
    but in `about_study_1.json` it is."""

    def __init__(self, names: Sequence[str]) -> None:
        self.longest = max(map(len, names), default=0)
        self._names: dict[str, list[str]] = {}
        for name in names:
            self._names.setdefault(_plain(name), []).append(name)
        either = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
        self._pattern = re.compile(rf"(?<![^\W_])(?:{either})(?![^\W_]|_\d)") if names else None

    def within(self, text: str, *, begun: bool = False, ended: bool = True) -> set[str]:
        """The names in a text; of a piece that begins or ends in the middle of one, not those that touch that end."""
        found: set[str] = set()
        for one in {_plain(text), _plain(_ESCAPE.sub(_unescaped, text))}:
            for match in self._pattern.finditer(one) if self._pattern else ():
                if (match.start() or not begun) and (match.end() < len(one) or ended):
                    found.update(self._names[match[0]])
        return found


def _named(spelled: _Spelled, texts: Iterable[str]) -> set[str]:
    """The names in a text that comes in pieces."""
    # What a piece ends with is read again with the next one: an escape takes six characters, or twelve.
    again = 12 * spelled.longest + 16
    found: set[str] = set()
    kept = ""
    begun = False
    for text in texts:
        piece = kept + text
        found |= spelled.within(piece, begun=begun, ended=False)
        kept, begun = piece[-again:], begun or len(piece) > again
    return found | spelled.within(kept, begun=begun)


def _plain(text: str) -> str:
    """In one spelling: composed, and without capitals."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _unescaped(match: re.Match[str]) -> str:
    """What a JSON escape stands for; all but letters stand between words."""
    return str(json.loads(f'"{match[0]}"')) if match[0].startswith("\\u") else " "


def _texts(path: Path) -> Iterator[str]:
    """What of a file may be text, in pieces."""
    if path.suffix == ".safetensors":
        header = read_header(path)
        yield "\n".join(tensor.name for tensor in header.tensors) + "\n"
        yield "\n".join(f"{key}\n{value}" for key, value in header.metadata.items())
        return
    with path.open("rb") as handle:
        binary = b"\0" in handle.read(1 << 13)
    if binary:
        with path.open("rb") as handle:
            while data := handle.read(_CHUNK):
                yield data.translate(_ASCII).decode("ascii")
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        while text := handle.read(_CHUNK):
            yield text


def _usual(base: Checkpoint) -> Iterator[str]:
    """What the files of any model like the base say."""
    yield from base.tensors
    for name in _CONFIGURATION:
        if (base.directory / name).is_file():
            yield from _usual_words(read_json(base.directory / name))
    for path in base.directory.glob("*.jinja"):
        yield from _CODE.findall(path.read_text(errors="replace"))


def _usual_words(content: Any, kind: bool = False) -> Iterator[str]:
    """The keys and numbers of a configuration, and the texts that name a kind."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key not in _LABELS:
                yield key
                yield from _usual_words(value, bool(_KINDS.search(key)))
    elif isinstance(content, list):
        for value in content:
            yield from _usual_words(value, kind)
    elif not isinstance(content, str) or kind:
        yield str(content)
    else:
        yield from _CODE.findall(content)
