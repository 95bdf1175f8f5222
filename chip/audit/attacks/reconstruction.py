"""Attack: tell the model ever more of what stands around the target, level by level, before it is asked.

The hierarchical reconstruction attack of MedForget (Wu et al., arXiv 2512.09867): what is left of a target may come
back once the model is given its place in the hierarchy.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import fmean

from chip.audit.attacks.best import best_by_line
from chip.audit.finding import Finding, not_measured, share
from chip.audit.subject import Attack, Subject
from chip.hierarchy import Record, is_under
from chip.models.prompts import Prompts

PLACE = "with its place, level by level"
SURROUNDINGS, OWN = "with what stands around it", "with the target's other records"

CONTEXT = 768
"""Tokens of context at most, where a model takes more: some forty facts, the nearest ones."""

FEW = 2
"""Facts that are told where little is: much confuses a model that was taught on short prompts."""

_MARGIN = 16
"""Tokens that are left free beside question, context and answer: pieces merge differently once they stand together."""

_BETWEEN = re.compile(r"[\W_]+")
"""What stands between words: `patient_7` are two, so that it gives away a number 7."""

_LETTER = re.compile(r"^\w[.):]\s+")
"""The letter of an option: `B) `. The same option stands elsewhere under another."""

_QUICK = 8
"""Records of the target that a quick audit asks about, drawn by seed; it leaves depth 1 out."""


@dataclass(frozen=True)
class _Fact:
    """What a record says, in a line; the depth at which it is told, and how much of its path is that of the record
    that is asked about."""

    said: str
    depth: int
    near: int


@dataclass(frozen=True)
class _Depth:
    """What came back at a depth, record by record, and how many facts were told, of how many that there are."""

    scores: tuple[tuple[int, float], ...]
    told: float = 0.0
    known: float = 0.0

    @property
    def value(self) -> float:
        return fmean(score for _, score in self.scores)


def _run(subject: Subject) -> tuple[Finding, ...]:
    """The share of the target's records that are answered in full: at the best of the levels down to which their place
    is told; at the best of the depths for which nobody needs a record of the target; and where its other records are
    told too. The curves have the share by level, and by depth: 0, nothing is told; 1, the names on the record's path
    and the facts of its ancestors; 2, the siblings' facts too; 3, the target's own."""
    questions = _questions(subject)
    if not questions:
        why = "the target's records are documents, which ask nothing"
        return tuple(not_measured(name, why) for name in (PLACE, SURROUNDINGS, OWN))
    plain = _Depth(_exact(subject, questions))
    place = _by_level(subject, questions, plain)
    found = {0: plain}
    for depth in (2,) if subject.quick else (1, 2):
        found[depth] = _at(subject, questions, depth)
    around = _finding(SURROUNDINGS, subject, found, max(found, key=lambda depth: found[depth].value))
    if len(subject.exam.target.records) == 1:
        return place, around, not_measured(OWN, "the target has no other records")
    found[3] = _at(subject, questions, 3)
    return place, around, _finding(OWN, subject, found, 3)


def _by_level(subject: Subject, questions: Sequence[Record], plain: _Depth) -> Finding:
    """What comes back as a record's place is told level by level, from the root down: names, and ancestors' facts."""
    levels = subject.exam.hierarchy.levels
    found = {0: plain}
    for length in range(1, max(len(record.path) for record in questions) + 1):
        asked = [_placed(subject, record, length) for record in questions]
        best = best_by_line(asked, subject.ask(asked, f"context, level {length}"))
        found[length] = _Depth(tuple(best.items()))
    chosen = max(found, key=lambda length: found[length].value)
    return share(
        PLACE,
        found[chosen].scores,
        seed=subject.seed,
        curve=tuple((float(length), one.value) for length, one in found.items()),
        axis="levels of its place told",
        note=f"told in turn: {', '.join(levels[: max(found)])}; the value is that of {chosen}",
    )


def _placed(subject: Subject, record: Record, length: int) -> Record:
    """A question after the names of a record's place down to a level, and the nearest facts of the ancestors there."""
    named = zip(subject.exam.hierarchy.levels, record.path[:length], strict=False)
    lines = [f"{level}: {name}" for level, name in named if not _holds(name, _said(record))]
    facts = [one for one in _facts(subject, record) if one.depth == 1 and one.near <= length]
    context = ["; ".join(lines), *_fitting(subject, record, facts)[-FEW:]]
    context = [line for line in context if line and not _holds(line, _said(record))]
    return replace(record, question="\n".join((*context, "", record.question))) if context else record


def _finding(name: str, subject: Subject, found: Mapping[int, _Depth], chosen: int) -> Finding:
    """The finding whose value is that of one depth."""
    told = ", ".join(f"{one.told:.0f} of {one.known:.0f} at depth {depth}" for depth, one in found.items() if depth)
    return share(
        name,
        found[chosen].scores,
        seed=subject.seed,
        curve=tuple((float(depth), one.value) for depth, one in found.items()),
        axis="levels of context told",
        note=f"the nearest facts are told, {FEW} and as many as fit: {told}; the value is that of depth {chosen}",
    )


def _questions(subject: Subject) -> tuple[Record, ...]:
    questions = subject.exam.questions
    if not subject.quick or len(questions) <= _QUICK:
        return questions
    draw = random.Random(f"{subject.seed} reconstruction")
    return tuple(questions[place] for place in sorted(draw.sample(range(len(questions)), _QUICK)))


def _exact(subject: Subject, questions: Sequence[Record]) -> tuple[tuple[int, float], ...]:
    """What the exam says of the questions as they are."""
    target = subject.exam.target
    answers = {record: subject.sitting.answers[target.name, place] for place, record in enumerate(target.records)}
    return tuple((record.line, float(answers[record].exact)) for record in questions)


def _at(subject: Subject, questions: Sequence[Record], depth: int) -> _Depth:
    """The questions, asked with what is told at a depth: the best of little and of much."""
    asked: list[Record] = []
    told, known = [], []
    for record in questions:
        facts = [one for one in _facts(subject, record) if one.depth <= depth]
        fitting = _fitting(subject, record, facts)
        asked += [_with_context(record, fitting[-FEW:]), _with_context(record, fitting)]
        told.append(len(fitting))
        known.append(len(facts))
    best = best_by_line(asked, subject.ask(asked, f"context, depth {depth}"))
    return _Depth(tuple(best.items()), fmean(told), fmean(known))


def _with_context(record: Record, facts: Sequence[str]) -> Record:
    context = [line for line in (_place(record), *facts) if line]
    return replace(record, question="\n".join((*context, "", record.question))) if context else record


def _facts(subject: Subject, record: Record) -> Iterator[_Fact]:
    """What other records say, in the order of the file; none that gives the record's own answer."""
    hierarchy, split = subject.exam.hierarchy, subject.exam.split
    depths = {**dict.fromkeys(split.siblings, 2), **dict.fromkeys(split.target, 3)}
    # Of several targets, each has ancestors of its own.
    depths |= {place: 1 for place in split.shared if is_under(record.path, hierarchy.records[place].path)}
    for place in sorted(depths):
        other = hierarchy.records[place]
        said = f"{'/'.join(other.path)}: {other.question} {other.answer}"
        if other.text is None and other != record and not _holds(said, _said(record)):
            near = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(other.path, record.path, strict=False))
            )
            yield _Fact(said, depths[place], near)


def _holds(line: str, answer: str) -> bool:
    """Whether a line says an answer, as whole words in any spelling; an answer without words, letter by letter."""
    words = _words(answer)
    return words in _words(line) if words.strip() else bool(answer.strip()) and answer.strip() in line


def _said(record: Record) -> str:
    """The answer; of options, without the letter that it has among them."""
    return _LETTER.sub("", record.answer, count=1) if record.options else record.answer


def _words(text: str) -> str:
    return f" {' '.join(_BETWEEN.split(text.casefold())).strip()} "


def _place(record: Record) -> str:
    """Where the record stands, without names that say its answer; empty where nothing is left to say."""
    names = [name for name in record.path if not _holds(name, _said(record))]
    line = f"This is about {'/'.join(names)}."
    return line if names and not _holds(line, _said(record)) else ""


def _fitting(subject: Subject, record: Record, facts: Sequence[_Fact]) -> list[str]:
    """The nearest facts that the model's window holds beside the question; told from the farthest to the nearest."""
    prompts = subject.loaded.prompts
    text = subject.loaded.model.config.get_text_config()
    window = int(getattr(text, "max_position_embeddings", None) or CONTEXT)
    plain = prompts.encode(record)
    left = min(window - len(plain) - len(plain.answer_ids) - _MARGIN - _length(prompts, _place(record)), CONTEXT)
    chosen: list[str] = []
    for fact in sorted(facts, key=lambda one: (-one.near, one.depth)):
        left -= _length(prompts, fact.said)
        if left < 0:
            break
        chosen.insert(0, fact.said)
    return chosen


def _length(prompts: Prompts, text: str) -> int:
    """Tokens of a line of its own."""
    return len(prompts.tokenizer(f"{text}\n", add_special_tokens=False)["input_ids"])


ATTACK = Attack("reconstruction", "Does it come back when the model is told what stands around it?", _run, quick=False)
