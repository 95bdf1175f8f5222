"""Attack: look inside. What tells the target by the difference to the model before, by the files of the release, by
its vocabulary, and by what the model holds in mind."""

import random
from collections.abc import Sequence

import torch

from chip.audit.excitation import differing_sites, excitations
from chip.audit.finding import Finding, Scale, not_measured
from chip.audit.formulas import attack_auc
from chip.audit.intervals import pairs_interval
from chip.audit.names import SHORTEST, files_naming, node_names, own_words, single_tokens, telling
from chip.audit.probe import left_out_pairs, states
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
    scores = excitations(subject, sites, [*target, *others])
    area = attack_auc([-one for one in scores[: len(target)]], [-one for one in scores[len(target) :]])
    if area is None:
        return not_measured(name, "there is nothing retained to tell the target from", scale="caution")
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
    told = telling(words, subject.base)
    if not told:
        return not_measured(name, _none_to_look_for(words), scale=scale)
    found = files_naming(subject.checkpoint.directory, told)
    named = {word for some in found.values() for word in some}
    where = f": {', '.join(found)}" if found else ""
    note = f"{len(named)} of {len(told)} that only the target has stand in the files{where}{_left_out(words, told)}"
    return Finding(name, len(named) / len(told), scale=scale, note=note)


def _vocabulary(subject: Subject) -> Finding:
    """The share of the target's node names and own words that are one token of the vocabulary, as names in a
    tokenizer's data are, or stand in one that was added."""
    name, words = "names and words in the vocabulary", sorted({*node_names(subject.exam), *own_words(subject.exam)})
    told = telling(words, subject.base)
    if not told:
        return not_measured(name, _none_to_look_for(words), scale="caution")
    found = single_tokens(subject.loaded.prompts.tokenizer, told)
    note = f"{len(found)} of {len(told)} that only the target has are a token: an edit of weights leaves them there"
    return Finding(name, len(found) / len(told), scale="caution", note=f"{note}{_left_out(words, told)}")


def _none_to_look_for(words: Sequence[str]) -> str:
    why = f"all {len(words)} are shorter than {SHORTEST} characters or stand in any model's files"
    return why if words else "the target has no such word of its own"


def _left_out(words: Sequence[str], told: Sequence[str]) -> str:
    count = len(words) - len(told)
    why = f"shorter than {SHORTEST} characters or stand in any model's files"
    return f"; left out are {count} that are {why}" if count else ""


def _probe(subject: Subject) -> Finding:
    """The area under the curve of a linear probe that tells the target's records from its siblings' (from others where
    it has none), each pair judged by a probe that was fitted without it; by record, the share of the others that it is
    put above. Only of records that ask something: before a document the state is the same for all."""
    name = "linear probe"
    target = subject.exam.questions
    others = _others(subject, ("siblings",), asking=True) or _others(subject, ("shared", "rest"), asking=True)
    if min(len(target), len(others)) < 2:
        why = "a probe needs two records of the target and two others that ask something; documents do not"
        return not_measured(name, why, scale="trace")
    member = torch.arange(len(target) + len(others)) < len(target)
    above = left_out_pairs(states(subject, [*target, *others]), member)
    return Finding(
        name,
        float(above.mean()),
        pairs_interval(above.numpy(), subject.seed),
        "trace",
        tuple((record.line, score) for record, score in zip(target, above.mean(1).tolist(), strict=True)),
    )


def _others(subject: Subject, groups: Sequence[str], *, asking: bool = False) -> list[Record]:
    """Retained records of these groups, drawn by seed; asking: without documents."""
    found = [one for group in subject.exam.groups if group.name in groups for one in group.records]
    if asking:
        found = [one for one in found if one.text is None]
    most = OTHERS // 2 if subject.quick else OTHERS
    return found if len(found) <= most else random.Random(subject.seed).sample(found, most)


ATTACK = Attack("inspection", "Does the release itself, or its difference to the model before, tell who is gone?", _run)
