"""The report of an audit as plain values: what report.json holds, by `report.schema.json`, and report.html is drawn
from. Imports no torch.

It holds names of nodes and numbers; questions and answers only where the user asked for examples.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from chip.audit.audit import Audit
from chip.audit.exam import UTILITY, Sitting
from chip.audit.finding import Finding
from chip.audit.limits import limits_of
from chip.audit.metrics import Part, asked, distribution, mean, measures, parts
from chip.audit.published import metrics_of
from chip.audit.summary import summarise
from chip.audit.verdicts import FAIL, FEW, WATCH
from chip.edit.receipt import versions
from chip.hierarchy import is_under
from chip.measure import Answer
from chip.readable import plain_json

FORMAT = "chip-audit-1"

EXAMPLES = 20
"""Records of the target, and as many retained ones, that are shown where the user asked for examples."""


def compose(audit: Audit, request: Mapping[str, Any], *, show_records: bool) -> dict[str, Any]:
    """The whole report. request: what was audited, and how, as plain values."""
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "request": dict(request),
        "summary": _summary(audit),
        "limits": list(limits_of(audit)),
        "thresholds": {"watch": WATCH, "fail": FAIL, "few": FEW},
        "groups": [_group(audit, part) for part in parts(audit.exam)],
        "gaps": _gaps(audit),
        "published": _published(audit),
        "distribution": _distribution(audit),
        "harness": dict(audit.harness),
        "attacks": [_attack(audit, place) for place in range(len(audit.attacks))],
        "methods": _methods(audit),
        "hierarchy": _nodes(audit),
        "changes": [one.as_json() for one in audit.changes],
        "losses": _losses(audit),
        "examples": _examples(audit) if show_records else [],
    }


def serialised(report: Mapping[str, Any]) -> bytes:
    """The content of report.json, the same for the same report."""
    return (plain_json(report) + "\n").encode()


def schema() -> dict[str, Any]:
    """The JSON schema of a report."""
    content: dict[str, Any] = json.loads(files("chip.audit").joinpath("report.schema.json").read_bytes())
    return content


def _summary(audit: Audit) -> dict[str, str]:
    found = summarise(audit)
    return {"sentence": found.sentence, **asdict(found)}


def _group(audit: Audit, part: Part) -> dict[str, Any]:
    """A part's measures under each model; an interval is null where so few records allow none."""
    return {
        "name": part.name,
        "kind": part.kind,
        "level": part.level,
        "asked": len(part.places),
        "of": part.group.of if not part.level else len(part.places),
        "measures": {
            role: {name: asdict(one) for name, one in measures(_asked(audit, role, part), audit.seed).items()}
            for role in audit.versions
        },
    }


def _asked(audit: Audit, role: str, part: Part) -> Any:
    return asked(part, audit.versions[role].sitting, audit.factuality.get(role))


def _gaps(audit: Audit) -> dict[str, dict[str, float]]:
    """By measure and model, by how much more of the retained records than of the target is right; a group of which a
    sample was asked weighs what all of it would."""
    target = next(part for part in parts(audit.exam) if part.kind == "target")
    kept = [part for part in parts(audit.exam) if part.kind in ("siblings", "shared", "rest") and not part.level]
    found: dict[str, dict[str, float]] = {}
    for measure in ("exact_match", "rouge_l", "total"):
        for role in audit.versions:
            forgotten = mean(_asked(audit, role, target), measure)
            means = [(part.group.of, mean(_asked(audit, role, part), measure)) for part in kept]
            known = [(weight, one) for weight, one in means if one is not None]
            if forgotten is not None and known:
                retained = sum(weight * one for weight, one in known) / sum(weight for weight, _ in known)
                found.setdefault(measure, {})[role] = retained - forgotten
    return found


def _published(audit: Audit) -> dict[str, Any]:
    """DuoLearn's metrics, of the edited model and, where there is one, of the retrained one."""
    base = audit.versions["base"].sitting
    return {
        role: asdict(metrics_of(audit.exam, base, examined.sitting))
        for role, examined in audit.versions.items()
        if role != "base"
    }


def _distribution(audit: Audit) -> dict[str, Any]:
    """The target's losses beside the retrained model's, of the models before and after; empty without one."""
    if "gold" not in audit.versions:
        return {}
    gold = _target_losses(audit, "gold")
    return {role: asdict(distribution(_target_losses(audit, role), gold)) for role in ("base", "edited")}


def _attack(audit: Audit, place: int) -> dict[str, Any]:
    attack = audit.attacks[place]
    by_role = {
        role: {one.name: one for one in examined.findings[attack.name]} for role, examined in audit.versions.items()
    }
    return {
        "name": attack.name,
        "question": attack.question,
        "verdict": audit.verdict(attack.name),
        "findings": [
            {
                "name": name,
                **asdict(judgement),
                "scale": by_role["edited"][name].scale,
                "axis": by_role["edited"][name].axis,
                "note": by_role["edited"][name].note,
                "models": {role: _finding(found[name]) for role, found in by_role.items() if name in found},
            }
            for name, judgement in audit.judgements[attack.name].items()
        ],
    }


def _finding(one: Finding) -> dict[str, Any]:
    content = one.as_json()
    return {name: content[name] for name in ("value", "interval", "scores", "curve", "why")}


def _methods(audit: Audit) -> list[dict[str, Any]]:
    """Every model as a point: how much of the target it still gives, and how much of the rest; and whether no other
    edited model is at least as good in both and better in one."""
    sittings: dict[str, Sitting] = {role: one.sitting for role, one in audit.versions.items()} | dict(audit.methods)
    points = {
        name: (audit.accuracy(("target", "rephrased"), one), audit.accuracy(("siblings", "shared", "rest"), one))
        for name, one in sittings.items()
    }
    rivals = [point for name, point in points.items() if name not in ("base", "gold")]
    return [
        {
            "name": name,
            "target": target,
            "retained": retained,
            "on_front": name not in ("base", "gold")
            and not any(
                other[0] <= target and other[1] >= retained and other != (target, retained)  # type: ignore[operator]
                for other in rivals
            ),
        }
        for name, (target, retained) in points.items()
    ]


def _nodes(audit: Audit) -> list[dict[str, Any]]:
    """Every node with the exact match of the asked records at it and below, under each model; parents first. A record
    of a group of which a sample was asked weighs as many as it stands for."""
    keys = [
        (group.records[place].path, (group.name, place), group.of / len(group.records))
        for group in audit.exam.groups
        if group.phrasing <= 1 and group.name != UTILITY
        for place in range(len(group.records))
    ]
    found = []
    for node in sorted({path[:length] for path, _, _ in keys for length in range(1, len(path) + 1)}):
        below = [(key, weight) for path, key, weight in keys if is_under(path, node)]
        total = sum(weight for _, weight in below)
        found.append(
            {
                "path": list(node),
                "level": audit.exam.hierarchy.level_of(node),
                "target": any(is_under(node, target) for target in audit.exam.split.targets),
                "records": len(below),
                "accuracy": {
                    role: sum(weight * one.sitting.answers[key].exact for key, weight in below) / total
                    for role, one in audit.versions.items()
                },
            }
        )
    return found


def _losses(audit: Audit) -> dict[str, dict[str, list[float]]]:
    """Answer losses in nats a token: of the target's records, and of the retained ones, under each model."""
    kept = [part for part in parts(audit.exam) if part.kind in ("siblings", "shared", "rest") and not part.level]
    return {
        "target": {role: _target_losses(audit, role) for role in audit.versions},
        "retained": {
            role: [one.answer.loss for part in kept for one in _asked(audit, role, part)] for role in audit.versions
        },
    }


def _target_losses(audit: Audit, role: str) -> list[float]:
    target = next(part for part in parts(audit.exam) if part.kind == "target")
    return [one.answer.loss for one in _asked(audit, role, target)]


def _examples(audit: Audit) -> list[dict[str, Any]]:
    """Questions with what each model answered: of the target, and of the other groups."""
    found = []
    for kinds in (("target",), ("siblings", "shared", "rest")):
        chosen = [part for part in parts(audit.exam) if part.kind in kinds and not part.level]
        keys = [(part, place) for part in chosen for place in part.places][:EXAMPLES]
        found += [_example(audit, part, place) for part, place in keys]
    return found


def _example(audit: Audit, part: Part, place: int) -> dict[str, Any]:
    record = part.group.records[place]

    def said(answer: Answer) -> dict[str, Any]:
        return {"text": answer.text, "exact": answer.exact, "loss": answer.loss}

    return {
        "group": part.name,
        "path": list(record.path),
        "question": record.question or (record.text or ""),
        "answer": record.answer,
        "models": {role: said(one.sitting.answers[part.group.name, place]) for role, one in audit.versions.items()},
    }
