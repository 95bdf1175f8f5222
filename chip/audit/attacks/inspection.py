"""Attack: look inside. What tells the target by the difference to the model before, by the files of the release, by
its vocabulary, and by what the model holds in mind."""

import random
from collections.abc import Sequence

import torch

from chip.audit.excitation import differing_sites, excitations
from chip.audit.finding import Finding, Scale, not_measured
from chip.audit.formulas import attack_auc
from chip.audit.intervals import auc_interval
from chip.audit.names import files_naming, node_names, own_words, single_tokens
from chip.audit.probe import left_out_scores, states
from chip.audit.subject import Attack, Subject
from chip.hierarchy import Record

OTHERS = 64
"""Retained records that the target's are told from, at most; a quick audit takes half as many."""


def _run(subject: Subject) -> tuple[Finding, ...]:
    return tuple(look(subject) for look in (_difference, _names, _words, _vocabulary, _probe))


def _difference(subject: Subject) -> Finding:
    """How well records of the target are told from others by how much they excite the difference: 2 · |AUC − 0.5|."""
    name = "difference to the model before"
    if subject.role == "base":
        return not_measured(name, "it is the model before", scale="caution")
    sites = differing_sites(subject)
    if not sites:
        return not_measured(name, "no layer of the language model differs from the model before", scale="caution")
    target, others = subject.exam.target.records, _others(subject, ("siblings", "shared", "rest"))
    if not others:
        return not_measured(name, "there is nothing retained to tell the target from", scale="caution")
    scores = excitations(subject, sites, [*target, *others])
    area = attack_auc([-one for one in scores[: len(target)]], [-one for one in scores[len(target) :]]) or 0.5
    return Finding(
        name,
        2 * abs(area - 0.5),
        scale="caution",
        scores=tuple((record.line, score) for record, score in zip(target, scores, strict=False)),
        note=f"whoever has the model before as well tells the target's records from {len(others)} others with an area "
        f"of {area:.2f}: do not publish both",
    )


def _names(subject: Subject) -> Finding:
    """The share of the target's node names that stand in the release's files."""
    names = node_names(subject.exam)
    return _in_files(subject, "node names in the files", names, "release")


def _words(subject: Subject) -> Finding:
    """The share of the words that only the target's records have that stand in the release's files."""
    return _in_files(subject, "words in the files", own_words(subject.exam), "caution")


def _in_files(subject: Subject, name: str, words: Sequence[str], scale: Scale) -> Finding:
    if not words:
        return not_measured(name, "the target has no such word of its own", scale=scale)
    found = files_naming(subject.checkpoint.directory, words)
    named = {word for some in found.values() for word in some}
    where = f": {', '.join(found)}" if found else ""
    note = f"{len(named)} of {len(words)} that only the target has stand in the files{where}"
    return Finding(name, len(named) / len(words), scale=scale, note=note)


def _vocabulary(subject: Subject) -> Finding:
    """The share of the target's own words that are one token of the vocabulary, as names in a tokenizer's data are."""
    name, words = "words in the vocabulary", own_words(subject.exam)
    if not words:
        return not_measured(name, "the target has no such word of its own", scale="caution")
    found = single_tokens(subject.loaded.prompts.tokenizer, words)
    note = f"{len(found)} of {len(words)} that only the target has are a token: an edit of weights leaves them there"
    return Finding(name, len(found) / len(words), scale="caution", note=note)


def _probe(subject: Subject) -> Finding:
    """The area under the curve of a linear probe that tells the target's records from its siblings' (from others where
    it has none), each record judged by a probe that was fitted without it."""
    name = "linear probe"
    target = subject.exam.target.records
    others = _others(subject, ("siblings",)) or _others(subject, ("shared", "rest"))
    if min(len(target), len(others)) < 2:
        return not_measured(name, "a probe needs two records of the target and two others", scale="trace")
    member = torch.arange(len(target) + len(others)) < len(target)
    scores = left_out_scores(states(subject, [*target, *others]), member).tolist()
    members, rest = scores[: len(target)], scores[len(target) :]
    return Finding(
        name,
        attack_auc([-one for one in members], [-one for one in rest]),
        auc_interval(members, rest, subject.seed),
        "trace",
        tuple((record.line, score) for record, score in zip(target, members, strict=True)),
    )


def _others(subject: Subject, groups: Sequence[str]) -> list[Record]:
    """Retained records of these groups, drawn by seed."""
    found = [one for group in subject.exam.groups if group.name in groups for one in group.records]
    most = OTHERS // 2 if subject.quick else OTHERS
    return found if len(found) <= most else random.Random(subject.seed).sample(found, most)


ATTACK = Attack("inspection", "Does the release itself, or its difference to the model before, tell who is gone?", _run)
