"""Wordings of a question: six of each, from templates, for three uses that never share one.

A model that was trained on the wording in which it is edited, or edited on the one in which it is examined, would be
measured on how well it knows a sentence and not a fact.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

EDITING, TRAINING, EVALUATION = slice(0, 1), slice(1, 4), slice(4, 6)
"""Which of a question's wordings are for what: edits see one, training another three, evaluation the last two."""


@dataclass(frozen=True)
class Wordings:
    """The wordings of one question by their use."""

    editing: str
    training: tuple[str, ...]
    evaluation: tuple[str, ...]


def wordings(kind: str, fields: Mapping[str, str]) -> Wordings:
    """All wordings of a question. kind: a key of phrasings.json; fields: what its templates leave open."""
    made = tuple(template.format(**fields) for template in _templates()[kind])
    return Wordings(made[EDITING][0], made[TRAINING], made[EVALUATION])


@cache
def _templates() -> Mapping[str, tuple[str, ...]]:
    content = json.loads(files("chip.medforget").joinpath("phrasings.json").read_text(encoding="utf-8"))
    return {kind: tuple(templates) for kind, templates in content.items()}
