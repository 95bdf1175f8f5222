"""Lexicons: which terms are known to stand at which level of the concept hierarchy. Imports no torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from chip.duolearn.words import Word, words_of
from chip.errors import ChipError
from chip.files import read_small, without_repetition

FORMAT = "chip-lexicon-1"
LEVELS: Mapping[int, str] = {
    1: "fundamental biomedical knowledge",
    2: "general clinical practice",
    3: "specialty",
    4: "target-specific",
}
"""The four levels of the paper's concept hierarchy, by its names (Zhang et al., arXiv 2511.19498)."""

_KEYS = {"format", "license", "common", "levels"}
_NEXT = "docs/formats.md shows the format; without --lexicon, the one that chip brings is used"

Term = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """Terms by level. `terms` has, by a term's first word, the words of each such term with its level, longest first;
    `common` are words of the language itself, which count as level 1."""

    terms: Mapping[str, Sequence[tuple[Term, int]]]
    common: frozenset[str]

    def levels(self, words: Sequence[Word]) -> list[int]:
        """The level of each word of a text as the lexicon has it, 0 where it has none."""
        found = [1 if word.is_sign or word.key in self.common else 0 for word in words]
        for first, last, level in self.matches(words):
            found[first : last + 1] = [level] * (last + 1 - first)
        return found

    def matches(self, words: Sequence[Word]) -> Iterator[tuple[int, int, int]]:
        """The terms that stand in a text: places of the first and the last word of each, and its level.

        From left to right, the longest term that begins at a word is taken, and none begins inside it. Hyphens do not
        count: "x-ray" and "x ray" are one term. Takes time linear in the text.
        """
        places = [place for place, word in enumerate(words) if not word.is_hyphen]
        keys = tuple(words[place].key for place in places)
        at = 0
        while at < len(keys):
            length, level = self._longest(keys, at)
            if length:
                yield places[at], places[at + length - 1], level
            at += max(length, 1)

    def _longest(self, keys: Term, at: int) -> tuple[int, int]:
        for term, level in self.terms.get(keys[at], ()):
            if keys[at : at + len(term)] == term:
                return len(term), level
        return 0, 0

    def __len__(self) -> int:
        return sum(map(len, self.terms.values()))


def lexicon_path(given: str | None) -> Path:
    """Where a lexicon is: the one that was given, or the one that chip brings."""
    return Path(given) if given is not None else Path(str(files("chip.duolearn").joinpath("lexicon.json")))


def read_lexicon(path: Path | None = None) -> Lexicon:
    """A lexicon from a JSON file (docs/formats.md), or the one that chip brings.

    Raises ChipError where the file cannot be read, or is no lexicon: not JSON, a name twice in an object, another
    format, wrong types, an empty term, or a term that stands in it twice, be it at one level or two.
    """
    shown = path or lexicon_path(None)
    try:
        text = read_small(shown).decode()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise ChipError(f"the lexicon {shown} cannot be read ({reason}); {_NEXT}") from problem
    try:
        return _lexicon(json.loads(text, object_pairs_hook=without_repetition))
    except (ValueError, RecursionError) as problem:
        raise ChipError(f"{shown} is no lexicon: {problem}; {_NEXT}") from problem


def _lexicon(content: Any) -> Lexicon:
    """What a file holds, as a lexicon. Raises ValueError where it is none."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    if unknown := sorted(content.keys() - _KEYS):
        raise ValueError(f"nothing in it may be called {unknown[0]!r}")
    if not isinstance(content.get("license"), str) or not content["license"].strip():
        raise ValueError("it does not say under which license its terms may be used")
    levels = content.get("levels")
    if not isinstance(levels, dict) or not {"1", "2", "3"} <= levels.keys() <= {"1", "2", "3", "4"}:
        raise ValueError('its levels are not "1", "2", "3" and, where wanted, "4"')
    known: dict[Term, str] = {}
    for where, terms in (*sorted(levels.items()), ("common", content.get("common", []))):
        for term in _read_terms(where, terms):
            if term in known:
                raise ValueError(f"{' '.join(term)!r} stands in it twice, at {known[term]} and at {where}")
            known[term] = where
    common = {term[0] for term, where in known.items() if where == "common"}
    return Lexicon(_by_first_word({term: int(at) for term, at in known.items() if at != "common"}), frozenset(common))


def _read_terms(where: str, terms: Any) -> list[Term]:
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
        raise ValueError(f"what stands at {where} is no list of terms")
    found = [tuple(word.key for word in words_of(term) if not word.is_hyphen) for term in terms]
    if any(all(word.is_sign for word in words_of(term)) for term in terms):
        raise ValueError(f"a term at {where} is empty")
    if where == "common" and (several := next((term for term in found if len(term) > 1), None)):
        raise ValueError(f"{' '.join(several)!r} is not one word, as all that is common must be")
    return found


def _by_first_word(levels: Mapping[Term, int]) -> dict[str, Sequence[tuple[Term, int]]]:
    found: dict[str, list[tuple[Term, int]]] = {}
    for term in sorted(levels, key=lambda term: (-len(term), term)):
        found.setdefault(term[0], []).append((term, levels[term]))
    return dict(found)
