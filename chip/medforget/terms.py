"""Clinical terms in a text: what a cloze question leaves out and a classification offers to choose from."""

import re
from typing import NamedTuple

from chip.duolearn.lexicon import Lexicon
from chip.duolearn.words import words_of

SPECIALTY = 3
"""The level of the concept hierarchy whose terms are asked for: what everybody knows is no fact of a study."""

_SENTENCE = re.compile(r"(?<=[.!?;])\s+")


class Term(NamedTuple):
    """A term as it stands in a text: characters `start` to `stop`; `key`, what it is known by in any spelling."""

    start: int
    stop: int
    key: str


def terms_of(text: str, lexicon: Lexicon) -> tuple[Term, ...]:
    """The specialty's terms in a text, in its order; a term that is repeated, each time."""
    words = words_of(text)
    return tuple(
        Term(
            words[first].start,
            words[last].stop,
            " ".join(word.key for word in words[first : last + 1] if not word.is_hyphen),
        )
        for first, last, level in lexicon.matches(words)
        if level == SPECIALTY
    )


def sentences_of(text: str) -> tuple[str, ...]:
    """The sentences of a text, with white space joined."""
    return tuple(one for one in _SENTENCE.split(" ".join(text.split())) if one)
