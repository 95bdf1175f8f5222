"""The first screen of a report: is the target gone, what did it cost, what could bring it back. Imports no torch."""

from dataclasses import dataclass

from chip.audit.audit import Audit
from chip.audit.verdicts import WATCH
from chip.audit.wording import MEANS


@dataclass(frozen=True)
class Summary:
    """Three answers, a sentence each, and whether each is good news: `yes`, `partly` or `no`."""

    gone: str
    cost: str
    back: str
    is_gone: str
    is_kept: str
    stays_gone: str

    @property
    def sentence(self) -> str:
        return f"{self.gone} {self.cost} {self.back}"


def summarise(audit: Audit) -> Summary:
    """What an audit comes to, said for a reader who knows no machine learning."""
    gone, is_gone = _gone(audit)
    cost, is_kept = _cost(audit)
    back, stays_gone = _back(audit)
    return Summary(gone, cost, back, is_gone, is_kept, stays_gone)


def _gone(audit: Audit) -> tuple[str, str]:
    names = ", ".join("/".join(node) for node in audit.exam.split.targets)
    count = len(audit.exam.target.records)
    left = {role: _still_answered(audit, role) for role in audit.versions}
    floor, before, after = left.get("gold", 0) / count, left["base"] / count, left["edited"] / count
    verdict = "yes" if after <= floor + WATCH else "partly" if after <= before / 2 else "no"
    said = {"yes": "is gone", "partly": "is partly gone", "no": "is not gone"}[verdict]
    if before <= WATCH:
        said = "was hardly known before the edit"
    beside = f", {left['gold']} by a model retrained without it" if "gold" in left else ""
    return (
        f"{names} {said}: of its {count} records, {left['edited']} are still answered word for word in one wording or "
        f"another ({left['base']} before{beside}).",
        verdict,
    )


def _still_answered(audit: Audit, role: str) -> int:
    """How many of the target's records a model answers in at least one of the wordings that the data have."""
    answers = audit.versions[role].sitting.answers
    return len(
        {
            record.line
            for group in audit.exam.groups
            if group.phrasing
            for place, record in enumerate(group.records)
            if answers[group.name, place].exact
        }
    )


def _cost(audit: Audit) -> tuple[str, str]:
    drops, known, said = [], [], []
    for kind, name in (("siblings", "its siblings"), ("shared", "what it belongs to"), ("rest", "everything else")):
        before = audit.accuracy((kind,), audit.versions["base"].sitting)
        after = audit.accuracy((kind,), audit.versions["edited"].sitting)
        if before is not None and after is not None:
            drops.append(before - after)
            known.append(before)
            said.append(f"{after:.0%} about {name} ({before:.0%} before)")
    worst = max(drops, default=0.0)
    verdict = "yes" if worst <= 0.01 else "partly" if worst <= WATCH else "no"
    cost = {"yes": "It cost next to nothing", "partly": "It cost little", "no": "It cost other answers"}[verdict]
    if max(known, default=0.0) <= WATCH:
        cost, verdict = "What it cost cannot be told, since little of the rest was known before", "partly"
    return f"{cost}: right are {_listed(said)}.", verdict


def _back(audit: Audit) -> tuple[str, str]:
    found = {
        verdict: [one.name for one in audit.attacks if audit.verdict(one.name) == verdict]
        for verdict in ("fail", "watch", "pass", "not tried")
    }
    tried = len(audit.attacks) - len(found["not tried"])
    if not tried:
        return "No attack was made, so that nothing is known of what could bring it back.", "partly"
    said = [f"{MEANS.get(name, name)} ({name}: {verdict})" for verdict in ("fail", "watch") for name in found[verdict]]
    passed = f"{len(found['pass'])} of {tried} attacks passed."
    if not said:
        return f"Nothing that was tried gave it away or brought it back: {passed}", "yes"
    could = f"What could give it away or bring it back: {_listed(said)}."
    return f"{could} {passed}", "no" if found["fail"] else "partly"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
