"""Identifiers in text, by pattern: what of the eighteen kinds of HIPAA Safe Harbor stands there in an obvious form.

45 CFR 164.514(b)(2). A pattern is no reader: it knows the forms that identifiers usually have, in English reports
above all, and finds nothing that identifies by what it tells. Every repetition is bounded: time is linear in the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from chip.medforget.identifier_patterns import PATTERNS

_JOINT = re.compile(r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class Match:
    """One identifier: its kind, and where in the text it stands."""

    kind: str
    start: int
    stop: int


def find_identifiers(text: str) -> Iterator[Match]:
    """The identifiers in a text, by place; where two overlap, the one whose pattern is the more telling.

    An underscore within a word counts as a space, as in names of nodes; the marks `___` of MIMIC are nothing.
    """
    spaced = _JOINT.sub(" ", text)
    taken: list[Match] = []
    for pattern in PATTERNS:
        for found in pattern.expression.finditer(spaced):
            start, stop = found.span("it" if "it" in pattern.expression.groupindex else 0)
            if pattern.allowed(spaced[start:stop]):
                taken.append(Match(pattern.kind, start, stop))
    yield from sorted(_apart(taken), key=lambda one: one.start)


def _apart(matches: list[Match]) -> Iterator[Match]:
    """The matches without those that overlap an earlier one of the list."""
    order = {id(one): rank for rank, one in enumerate(matches)}
    kept: Match | None = None
    for one in sorted(matches, key=lambda one: (one.start, order[id(one)])):
        if kept is None or one.start >= kept.stop:
            if kept is not None:
                yield kept
            kept = one
        elif order[id(one)] < order[id(kept)]:
            kept = one
    if kept is not None:
        yield kept
