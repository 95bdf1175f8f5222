"""Where phrases stand in many texts, whose words are put in order once, however many phrases are asked about."""

import re
from array import array
from collections.abc import Iterable, Set

Phrase = tuple[str, ...]

_WORD = re.compile(r"\w+|[^\w\s]")


def tokens_of(text: str) -> Phrase:
    """The words and signs of a text, without regard to capitals and white space."""
    return tuple(_WORD.findall(text.casefold()))


def standing_in(text: str, phrases: Set[Phrase], lengths: Set[int]) -> set[Phrase]:
    """Which of the phrases, which have these lengths, stand in a text, word for word."""
    words = tokens_of(text)
    return {words[i : i + n] for n in lengths for i in range(len(words) - n + 1)} & phrases


class Words:
    """By word, the texts that hold it, by their numbers: 4 bytes for each word of each text."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts: dict[str, array[int]] = {}
        for number, text in enumerate(texts):
            for word in set(tokens_of(text)):
                self._texts.setdefault(word, array("I")).append(number)

    def likely(self, phrases: Iterable[Phrase]) -> list[int]:
        """The texts, in order, that hold the rarest word of any of the phrases: no other holds a phrase."""
        found: set[int] = set()
        nowhere = array("I")
        for phrase in phrases:
            rarest = min((self._texts.get(word, nowhere) for word in phrase), key=len, default=nowhere)
            found.update(rarest)
        return sorted(found)
