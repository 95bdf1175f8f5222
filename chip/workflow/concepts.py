"""Showing the concept hierarchy of a target: every word of its answers with its level and its role, and their counts.

Needs torch only where a model's tokens are asked for, and never loads a weight.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from chip.duolearn.concepts import Concepts, LevelledWord
from chip.duolearn.lexicon import LEVELS, read_lexicon
from chip.duolearn.words import key_of
from chip.hierarchy import Hierarchy, NodePath, Record, Split
from chip.records import read_records


@dataclass(frozen=True)
class ConceptsRequest:
    """What to show: the nodes to forget in a data directory, by words or, with a model, by its tokens.

    lexicon: a lexicon's file, or None for the one that chip brings. most: how many of the target's records are shown;
    all of them are counted. choices: as `chip.duolearn.concepts.Concepts` has it.
    """

    data: Path
    forget: tuple[str, ...]
    lexicon: Path | None = None
    model: str | None = None
    most: int = 20
    choices: bool = True


@dataclass(frozen=True)
class Piece:
    """A word or a token with its level and whether it is targeted, or what stands between two: of level 0."""

    text: str
    level: int = 0
    targeted: bool = False


@dataclass(frozen=True)
class ShownRecord:
    """A record of the target: the pieces of its question and of its answer, which together are all of their text."""

    path: NodePath
    line: int
    question: tuple[Piece, ...]
    answer: tuple[Piece, ...]


@dataclass(frozen=True)
class LevelCount:
    """How many words or tokens of the target's answers stand at a level, by role."""

    level: int
    name: str
    targeted: int
    preserved: int


@dataclass(frozen=True)
class ShownConcepts:
    """The first `records` of a target's `of`, the counts over all of them, and its own words: those of its answers at
    level 4, as first spelled, with how often they are said. `unit`: words or tokens, which the pieces are."""

    targets: tuple[NodePath, ...]
    unit: str
    of: int
    records: tuple[ShownRecord, ...]
    counts: tuple[LevelCount, ...]
    own: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def show_concepts(request: ConceptsRequest) -> ShownConcepts:
    """The levels and roles of the words of a target's answers, and of its questions beside them.

    Raises ChipError where the records, the nodes, the lexicon or the model's tokenizer cannot be used.
    """
    lexicon = read_lexicon(request.lexicon)
    hierarchy = read_records(request.data)
    split = hierarchy.split([hierarchy.resolve(name) for name in request.forget])
    concepts = Concepts(lexicon, hierarchy, split, choices=request.choices)
    records = _by_words(concepts, hierarchy, split)
    own = _own_words(records)
    if request.model is not None:
        records = _by_tokens(concepts, hierarchy, split, request.model)
    return ShownConcepts(
        split.targets,
        "words" if request.model is None else "tokens",
        len(records),
        tuple(records[: request.most]),
        _counts(records),
        own,
    )


def _by_words(concepts: Concepts, hierarchy: Hierarchy, split: Split) -> list[ShownRecord]:
    shown = []
    for record in (hierarchy.records[position] for position in split.target):
        words = concepts.words(record, target=True)
        shown.append(_shown(record, words.question, words.answer))
    return shown


def _by_tokens(concepts: Concepts, hierarchy: Hierarchy, split: Split, model: str) -> list[ShownRecord]:
    # What needs torch is imported here, so that words are shown without it.
    from chip.duolearn.labels import label_tokens
    from chip.models.checkpoint import Checkpoint
    from chip.models.folders import resolve_model
    from chip.models.loading import load_prompts

    prompts, shown = load_prompts(Checkpoint(resolve_model(model))), []
    for record in (hierarchy.records[position] for position in split.target):
        seen = replace(record, images=())  # an image shifts an answer's tokens and changes none
        encoded = prompts.encode(seen)
        labels = label_tokens(concepts, prompts, seen, encoded, target=True)
        tokens: dict[str | None, list[LevelledWord]] = {"question": [], "answer": []}
        roles = (labels.targeted | labels.question_targeted).tolist()
        for span, level, targeted in zip(prompts.spans(seen, encoded), labels.levels.tolist(), roles, strict=True):
            if span.part is not None:
                tokens[span.part].append(LevelledWord(span.start, span.stop, level, targeted))
        shown.append(_shown(record, tokens["question"], tokens["answer"]))
    return shown


def _shown(record: Record, question: Iterable[LevelledWord], answer: Iterable[LevelledWord]) -> ShownRecord:
    said = record.answer if record.text is None else record.text
    return ShownRecord(record.path, record.line, _pieces(record.question, question), _pieces(said, answer))


def _pieces(text: str, words: Iterable[LevelledWord]) -> tuple[Piece, ...]:
    """A text in pieces: its words, or tokens, and the white space between them, which some tokens bring along. Of a
    character of several tokens, the first has all, and the others are empty."""
    found, at = [], 0
    for word in words:
        said = text[max(word.start, at) : word.stop]
        start = max(word.start, at) + len(said) - len(said.lstrip())
        if start > at:
            found.append(Piece(text[at:start]))
        if said.strip() or not said:
            found.append(Piece(text[start : word.stop], word.level, word.targeted))
        at = max(at, start, word.stop)
    return (*found, *([Piece(text[at:])] if at < len(text) else []))


def _counts(records: Sequence[ShownRecord]) -> tuple[LevelCount, ...]:
    counted = Counter((piece.level, piece.targeted) for record in records for piece in record.answer)
    return tuple(LevelCount(level, name, counted[level, True], counted[level, False]) for level, name in LEVELS.items())


def _own_words(records: Sequence[ShownRecord]) -> dict[str, int]:
    words = [piece.text for record in records for piece in record.answer if piece.level == 4]
    spelled: dict[str, str] = {}
    for word in words:
        spelled.setdefault(key_of(word), word)
    counted = Counter(map(key_of, words))
    return {spelled[key]: counted[key] for key in sorted(counted)}
