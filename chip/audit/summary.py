"""The first screen of a report: is the target gone, what did it cost, what could bring it back. Imports no torch."""

from dataclasses import dataclass

from chip.audit.audit import Audit
from chip.audit.metrics import exact_match, parts
from chip.audit.verdicts import WATCH


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
    left = {role: _target_left(audit, role) for role in audit.versions}
    floor = left.get("gold", 0.0)
    verdict = "yes" if left["edited"] <= floor + WATCH else "partly" if left["edited"] <= left["base"] / 2 else "no"
    said = {"yes": "is gone", "partly": "is partly gone", "no": "is not gone"}[verdict]
    if left["base"] <= WATCH:
        said = "was hardly known before the edit"
    beside = f", {floor:.0%} by a model retrained without it" if "gold" in left else ""
    count = len(audit.exam.target.records)
    return (
        f"{names} {said}: {left['edited']:.0%} of its {count} answers are still given word for word, in the wording "
        f"that gives most away ({left['base']:.0%} before{beside}).",
        verdict,
    )


def _target_left(audit: Audit, role: str) -> float:
    """Exact match of the target, in the phrasing that gives most away."""
    sitting = audit.versions[role].sitting
    return max(
        exact_match(part, sitting)
        for part in parts(audit.exam)
        if part.kind in ("target", "rephrased") and not part.level
    )


def _cost(audit: Audit) -> tuple[str, str]:
    drops, said = [], []
    for kind, name in (("siblings", "its siblings'"), ("shared", "its ancestors'"), ("rest", "all other")):
        before = audit.accuracy((kind,), audit.versions["base"].sitting)
        after = audit.accuracy((kind,), audit.versions["edited"].sitting)
        if before is not None and after is not None:
            drops.append(before - after)
            said.append(f"{after:.0%} of {name} answers are right ({before:.0%} before)")
    worst = max(drops, default=0.0)
    verdict = "yes" if worst <= 0.01 else "partly" if worst <= WATCH else "no"
    cost = {"yes": "It cost next to nothing", "partly": "It cost little", "no": "It cost other answers"}[verdict]
    return f"{cost}: {'; '.join(said)}.", verdict


def _back(audit: Audit) -> tuple[str, str]:
    found = {
        verdict: [one.name for one in audit.attacks if audit.verdict(one.name) == verdict]
        for verdict in ("fail", "watch", "pass", "not tried")
    }
    tried = len(audit.attacks) - len(found["not tried"])
    if not tried:
        return "No attack was made, so that nothing is known of what could bring it back.", "partly"
    compared = (
        "clearly more than a model retrained without it" if "gold" in audit.versions else "part of what was there"
    )
    said = []
    if found["fail"]:
        said.append(f"{_listed(found['fail'])} got {compared} (fail)")
    if found["watch"]:
        said.append(f"{_listed(found['watch'])} {'are' if len(found['watch']) > 1 else 'is'} to be watched")
    if not said:
        return f"Nothing that was tried brought it back ({tried} attacks passed).", "yes"
    passed = f"; {len(found['pass'])} of {tried} attacks passed" if found["pass"] else ""
    return f"What could give it away or bring it back: {'; '.join(said)}{passed}.", "no" if found["fail"] else "partly"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
