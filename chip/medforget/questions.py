"""The questions of the benchmark: generation, classification and cloze about sections, and identities at every level.

A question's kind decides its wordings (`chip.medforget.wording`); its format is that of the authors' code, which tells
a cloze question by "[blank]" and a classification by its options "A)", "B)", "C)".
"""

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import eq

from chip.duolearn.lexicon import Lexicon
from chip.hierarchy import NodePath
from chip.medforget.charts import Chart
from chip.medforget.terms import sentences_of, terms_of

BLANK = "[blank]"
LETTERS = "ABCDEFGH"
SHORT = 12
"""Words up to which the text of a section is offered as an option as it is."""

CLOZED = ("INDICATION", "FINDINGS", "IMPRESSION")
"""Sections whose terms are a fact of the study: what was examined and how, an image alone tells."""

CONTEXT = 2
"""Words that a sentence must have beside the term that is left out."""

ASKED = 64
"""Charts of a node that are looked through for options, at most; of more, as many are drawn."""

_SHORTEST = 3
"""Letters up to which a word has no plural here: `gas`."""

_FEWEST = 3
"""Options below which the authors' code does not see a classification."""

_WORD = re.compile(r"\w+")

GENERATION, CLASSIFICATION, CLOZE, IDENTITY = "generation", "classification", "cloze", "identity"


@dataclass(frozen=True)
class Question:
    """One question about a node, in no wording yet. options: to choose from, the answer among them, in no order."""

    kind: str
    task: str
    path: NodePath
    answer: str
    image: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def questions(charts: Sequence[Chart], lexicon: Lexicon, *, options: int, seed: int, dealt: bool) -> list[Question]:
    """All questions about these charts, node by node. options: how many a classification offers; dealt: institutions
    are made up, so that each has a registration code of its own, made up too. Answers stand at each place of their
    options alike often, to within one, for every kind and number of options."""
    asked = [*_of_institutions(charts, seed, dealt=dealt)]
    nearby = Nearby(charts, lexicon)
    firsts = {chart.path[:2]: chart for chart in reversed(charts)}
    for chart in charts:
        draw = random.Random(f"{seed} {'/'.join(chart.path)}")
        if firsts[chart.path[:2]] is chart:
            asked += _of_patient(chart, nearby, options, draw)
        asked += _of_study(chart, nearby, options, draw)
        for section in chart.sections:
            asked += _of_section(chart, section, nearby, options, draw)
    return placed(asked, seed)


def placed(asked: Iterable[Question], seed: int) -> list[Question]:
    """The questions with their options in order, lettered, and the answer as one of them."""
    seen: Counter[tuple[str, int]] = Counter()
    found = []
    for one in asked:
        if not one.options:
            found.append(one)
            continue
        group = (one.kind, len(one.options))
        place = _turn(group, seen[group], seed)
        seen[group] += 1
        others = [option for option in one.options if option != one.answer]
        random.Random(f"{seed} options {'/'.join(one.path)} {one.kind}").shuffle(others)
        ordered = [*others[:place], one.answer, *others[place:]]
        lettered = tuple(f"{letter}) {option}" for letter, option in zip(LETTERS, ordered, strict=False))
        fields = {**one.fields, "options": "\n".join(lettered)}
        found.append(replace(one, answer=lettered[place], options=lettered, fields=fields))
    return found


def _turn(group: tuple[str, int], number: int, seed: int) -> int:
    """The place of an answer: in every round of as many questions as there are places, each place once."""
    kind, count = group
    order = random.Random(f"{seed} places {kind} {count} {number // count}").sample(range(count), count)
    return order[number % count]


class Nearby:
    """What other charts say in the same place, the nearest first: the patient's other studies, the institution's, all
    others'."""

    def __init__(self, charts: Sequence[Chart], lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self._by_node: dict[NodePath, list[Chart]] = defaultdict(list)
        for chart in charts:
            for depth in range(3):
                self._by_node[chart.path[:depth]].append(chart)
        self._terms: dict[tuple[NodePath, str], tuple[str, ...]] = {}

    def terms(self, chart: Chart, section: str) -> tuple[str, ...]:
        """What a section mentions, each term once, in the words in which it first stands there."""
        key = (chart.path, section)
        if key not in self._terms:
            text = chart.sections.get(section, "")
            said: dict[str, str] = {}
            for term in terms_of(text, self.lexicon):
                said.setdefault(term.key, text[term.start : term.stop].lower())
            self._terms[key] = tuple(said.values())
        return self._terms[key]

    def others(
        self,
        chart: Chart,
        said: Callable[[Chart], Iterable[str]],
        holds: Callable[[str], bool],
        count: int,
        draw: random.Random,
    ) -> tuple[str, ...]:
        """`count` things that other charts say and that do not hold of this one; fewer where there are not so many.
        Things that differ in signs or capitals alone are one."""
        found: list[str] = []
        seen: set[str] = set()
        for depth in (2, 1, 0):
            new: dict[str, str] = {}
            charts = self._by_node[chart.path[:depth]]
            for other in charts if len(charts) <= ASKED else draw.sample(charts, ASKED):
                for one in said(other) if other is not chart else ():
                    if _words(one) not in seen and not holds(one):
                        new.setdefault(_words(one), one)
            offered = [new[key] for key in sorted(new)]
            draw.shuffle(offered)
            found += offered[: count - len(found)]
            seen |= new.keys()
            if len(found) == count:
                break
        return tuple(found)


def _of_institutions(charts: Sequence[Chart], seed: int, *, dealt: bool) -> Iterator[Question]:
    """Facts that every patient of an institution shares: they show no image, which would be some patient's."""
    patients: dict[str, set[str]] = defaultdict(set)
    examined: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for chart in charts:
        patients[chart.institution].add(chart.patient)
        if said := chart.sections.get("EXAMINATION"):
            examined[chart.institution][said].add(chart.patient)
    for name in sorted(patients):
        fields = {"institution": name}
        if dealt:
            yield Question("code", IDENTITY, (name,), _code(name, seed), fields=fields)
        yield Question("patients", IDENTITY, (name,), str(len(patients[name])), fields=fields)
        usual, whose = min(examined[name].items(), key=lambda pair: (-len(pair[1]), pair[0]), default=("", set()))
        if len(whose) > 1:  # what one patient's reports alone say is a fact of that patient
            yield Question("usual", IDENTITY, (name,), usual, fields=fields)


def _of_patient(chart: Chart, nearby: Nearby, options: int, draw: random.Random) -> Iterator[Question]:
    path, image = chart.path[:2], chart.pictures[0]
    yield Question("patient", IDENTITY, path, chart.patient, image)
    yield Question("institution", IDENTITY, path, chart.institution, image)
    others = nearby.others(chart, lambda one: (one.patient,), lambda one: one == chart.patient, options - 1, draw)
    if len(others) == options - 1:
        yield Question("which_patient", CLASSIFICATION, path, chart.patient, image, options=(chart.patient, *others))


def _of_study(chart: Chart, nearby: Nearby, options: int, draw: random.Random) -> Iterator[Question]:
    for picture in chart.pictures:
        yield Question("study", IDENTITY, chart.path, chart.study, picture)
    for picture, view in zip(chart.pictures, chart.views, strict=True):
        others = nearby.others(chart, lambda one: filter(None, one.views), partial(eq, view), options - 1, draw)
        if view and len(others) >= _FEWEST - 1:
            yield Question("view", CLASSIFICATION, chart.path, view, picture, options=(view, *others))
    image = chart.pictures[0]
    if chart.present:
        here = {*chart.present, *chart.uncertain}
        others = nearby.others(chart, lambda one: one.present, lambda one: one in here, options - 1, draw)
        if len(others) == options - 1:
            answer = draw.choice(chart.present)
            yield Question("present", CLASSIFICATION, chart.path, answer, image, options=(answer, *others))


def _of_section(chart: Chart, section: str, nearby: Nearby, options: int, draw: random.Random) -> Iterator[Question]:
    text = chart.sections[section]
    path, image, fields = (*chart.path, section), chart.pictures[0], {"section": section.lower()}
    yield Question("generation", GENERATION, path, text, image, fields)
    terms = nearby.terms(chart, section)
    if len(text.split()) <= SHORT:
        others = nearby.others(
            chart, lambda one: _short(one, section), partial(_overlaps, text, chart), options - 1, draw
        )
        if len(others) == options - 1:
            yield Question("worded", CLASSIFICATION, path, text, image, fields, (text, *others))
    elif terms:
        everything = _words(" ".join(chart.sections.values()))
        others = nearby.others(
            chart, lambda one: nearby.terms(one, section), lambda one: _words(one) in everything, options - 1, draw
        )
        if len(others) == options - 1:
            answer = draw.choice(terms)
            yield Question("mentioned", CLASSIFICATION, path, answer, image, fields, (answer, *others))
    if section in CLOZED and (gap := _cloze(text, nearby.lexicon, draw)):
        sentence, answer = gap
        yield Question("cloze", CLOZE, path, answer, image, {**fields, "sentence": sentence})


def _short(chart: Chart, section: str) -> tuple[str, ...]:
    text = chart.sections.get(section, "")
    return (text,) if 0 < len(text.split()) <= SHORT else ()


def _overlaps(text: str, chart: Chart, other: str) -> bool:
    """Whether another wording would hold too: it stands in the study's report, or one of the two holds the other."""
    mine, said, everything = _words(text), _words(other), _words(" ".join(chart.sections.values()))
    return said in everything or mine in said or said in mine


def _cloze(text: str, lexicon: Lexicon, draw: random.Random) -> tuple[str, str] | None:
    """A sentence with a term left out, and the term; passed over are sentences that would still say it, and those into
    whose blank another sentence of the text puts another term."""
    found = []
    every = sentences_of(text)
    for sentence in every:
        terms = terms_of(sentence, lexicon)
        counts = Counter(term.key for term in terms)
        for term in terms:
            answer = sentence[term.start : term.stop]
            left = f"{sentence[: term.start]}{BLANK}{sentence[term.stop :]}"
            said = _words(left.replace(BLANK, " "))
            fits = sum(_fits(other, sentence[: term.start], sentence[term.stop :]) for other in every)
            if counts[term.key] == 1 and fits == 1 and _words(answer) not in said and len(said.split()) >= CONTEXT:
                found.append((left, answer))
    return draw.choice(found) if found else None


def _fits(sentence: str, before: str, after: str) -> bool:
    """Whether a sentence begins and ends as one with a blank does, whatever stands between."""
    return (
        len(sentence) > len(before) + len(after)
        and sentence.casefold().startswith(before.casefold())
        and sentence.casefold().endswith(after.casefold())
    )


def _words(text: str) -> str:
    """The words of a text between blanks, so that words are found in it whole; plurals as their singulars."""
    return f" {' '.join(map(_singular, _WORD.findall(text.casefold())))} "


def _singular(word: str) -> str:
    """An English word without the ending of a plural; what ends in -ss, -is or -us is none."""
    if len(word) <= _SHORTEST or not word.endswith("s") or word.endswith(("ss", "is", "us")):
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes")) else word[:-1]


def _code(name: str, seed: int) -> str:
    drawn = int(hashlib.sha256(f"{seed} code {name}".encode()).hexdigest(), 16)
    return f"{LETTERS[drawn % 8]}{LETTERS[drawn // 8 % 8]}-{drawn // 64 % 9000 + 1000}"
