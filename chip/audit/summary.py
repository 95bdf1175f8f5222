"""The first screen of a report: is the target gone, what did it cost, what could bring it back. Imports no torch."""

from dataclasses import dataclass

from chip.audit.audit import Audit
from chip.audit.verdicts import WATCH, Verdict
from chip.audit.wording import MEANS

_ROUNDING = 1e-9
"""Two means of the same scores may differ by so much."""


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
    floor = 0.0 if audit.gold_knows else left.get("gold", 0) / count
    before, after = left["base"] / count, left["edited"] / count
    verdict = "yes" if after <= floor + WATCH else "partly" if after <= before / 2 else "no"
    said = {"yes": "is gone", "partly": "is partly gone", "no": "is not gone"}[verdict]
    if before <= WATCH:
        said = "was hardly known before the edit"
    beside = f", {left['gold']} by {_gold(audit)}" if "gold" in left else ""
    still = "is" if left["edited"] == 1 else "are"
    return (
        f"{names} {said}: of its {count} records, {left['edited']} {still} still answered word for word in one wording "
        f"or another ({left['base']} before{beside}).",
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
    """What brings more of the target back than is left without any attack, apart from what shows that there was one."""
    verdicts = {one.name: audit.verdict(one.name) for one in audit.attacks}
    tried = [name for name, verdict in verdicts.items() if verdict != "not tried"]
    if not tried:
        return "No attack was made, so that nothing is known of what could bring it back.", "partly"
    left = audit.known("edited")
    found = [name for name in tried if verdicts[name] in ("fail", "watch")]
    back = [name for name in found if any(value > left + _ROUNDING for value in _shares(audit, name))]
    told = [name for name in found if name not in back and not _shares(audit, name)]
    passed = f"{len(tried) - len(found)} of {len(tried)} attacks passed."
    said = [_said_of_back(_attacks(back, verdicts) if back else "", left)]
    if told:
        said.append(f"Shows that it was there: {_attacks(told, verdicts)}.")
    if audit.gold_knows:
        said.append("The model to compare with seems to have been trained with the target: passes mean little.")
    stays = "no" if any(verdicts[name] == "fail" for name in back) else "partly" if found or audit.gold_knows else "yes"
    return f"{' '.join(said)} {passed}", stays


def _said_of_back(attacks: str, left: float) -> str:
    if not left:
        return f"Brings it back: {attacks}." if attacks else "Nothing that was tried brings it back."
    more = f"more of it back than the {left:.0%} that is left without any attack"
    return f"Brings {more}: {attacks}." if attacks else f"Nothing that was tried brings {more}."


def _shares(audit: Audit, attack: str) -> list[float]:
    """How much of the target came back in those of an attack's findings that are of answers, and are no pass."""
    judged = audit.judgements[attack]
    return [
        one.value
        for one in audit.versions["edited"].findings[attack]
        if one.scale == "share" and one.value is not None and judged[one.name].verdict in ("fail", "watch")
    ]


def _attacks(names: list[str], verdicts: dict[str, Verdict]) -> str:
    return _listed([f"{MEANS.get(name, name)} ({name}: {verdicts[name]})" for name in names])


def _gold(audit: Audit) -> str:
    return "a model that seems to have been trained with it" if audit.gold_knows else "a model retrained without it"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
