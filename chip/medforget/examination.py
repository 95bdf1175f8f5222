"""Examining what methods leave: a model before, a retrained one and every edited one sit the same exam.

The models before and retrained are examined once for all methods, and only where something is asked of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chip.audit.attacks import ATTACKS
from chip.audit.audit import Audit
from chip.audit.changes import changes
from chip.audit.exam import Exam, set_exam
from chip.audit.examining import Examined, Examiner
from chip.audit.judging import Judge
from chip.audit.kept import KeptAudit
from chip.audit.report import compose
from chip.audit.subject import Role
from chip.hierarchy import Hierarchy, Split
from chip.medforget.scores import gaps, published_scores
from chip.models.checkpoint import Checkpoint
from chip.progress import Track, silent

METRICS = ("forgetting_rate", "knowledge_preservation", "mia_resistance", "hmta")

Outcome = dict[str, Any]
"""One model, as plain values. Of its edit: command, seconds (of the processor, search and verification too), memory
(its peak, MiB), tried (edits), goals_met (chip's own), or problem, why there is no edit. Of its examination: groups (by
name: records, exact match with its interval, loss in nats a token), scores and gaps (`chip.medforget.scores`), metrics
(those of docs/duolearn.md), distance (of the target's losses to the retrained model's, nats), findings and curves (by
attack and probe), verdicts (by attack) and answers (gone, kept, stays gone)."""


@dataclass(frozen=True)
class How:
    """How models are examined. attacks: names; quick: they make do with fewer tries. records: retained ones that are
    asked of a group, at most. nonmembers: a data directory of records that no model has seen."""

    attacks: tuple[str, ...]
    quick: bool = True
    judge: Judge | None = None
    records: int = 200
    nonmembers: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 32
    seed: int = 0


class Examination:
    """One exam for the model before, the retrained one where there is one, and every edited one."""

    def __init__(
        self, model: Path, gold: Path | None, hierarchy: Hierarchy, split: Split, how: How, track: Track = silent
    ) -> None:
        self._base, self._gold_model, self._how, self._track = Checkpoint(model), gold, how, track
        self.exam: Exam = set_exam(hierarchy, split, nonmembers=how.nonmembers, records=how.records, seed=how.seed)
        self._attacks = tuple(ATTACKS[name] for name in how.attacks)
        self._marks: dict[str, dict[tuple[str, int], float]] = {}

    def report(self, edited: Path) -> dict[str, Any]:
        """What `chip audit` writes to report.json, with `scores` and `score_gaps` by role."""
        versions = {"base": self._before, "edited": self._examined("edited", edited)}
        if self._gold is not None:
            versions["gold"] = self._gold
        judged = {role: self._marked(role, one) for role, one in versions.items()} if self._how.judge else {}
        changed = changes(self._base, Checkpoint(edited), silent)
        audit = Audit(
            self.exam, self._attacks, versions, methods={}, changes=changed, factuality=judged, harness={},
            seed=self._how.seed,
        )  # fmt: skip
        scores = {role: published_scores(self.exam, one.sitting, judged.get(role)) for role, one in versions.items()}
        report = compose(audit, {}, show_records=False)
        return report | {"scores": scores, "score_gaps": {role: gaps(one) for role, one in scores.items()}}

    @cached_property
    def _before(self) -> Examined:
        return self._examined("base", self._base.directory)

    @cached_property
    def _gold(self) -> Examined | None:
        return None if self._gold_model is None else self._examined("gold", self._gold_model)

    def _examined(self, role: Role, directory: Path) -> Examined:
        examiner = self._examiner()
        model = examiner.model(Checkpoint(directory))
        return examiner.attacked(role, model, examiner.sitting(role, model))

    def _marked(self, role: str, examined: Examined) -> dict[tuple[str, int], float]:
        assert self._how.judge is not None
        if role == "edited" or role not in self._marks:
            self._marks[role] = self._examiner().marks(role, examined.sitting, self._how.judge)
        return self._marks[role]

    def _examiner(self) -> Examiner:
        how = self._how
        kept = KeptAudit(None, "", lambda _: None)
        return Examiner(
            self.exam, self._base, self._attacks, kept, how.device, how.dtype, how.batch_size, how.seed, how.quick,
            self._track,
        )  # fmt: skip


def of_model(report: Mapping[str, Any], role: str) -> Outcome:
    """The numbers of a report that are of one of its models; no node is named."""
    groups = {}
    for one in report["groups"]:
        if not one["level"]:
            match, loss = (one["measures"][role][name] for name in ("exact_match", "loss"))
            groups[one["name"]] = {
                "asked": one["asked"], "of": one["of"], "match": match["value"], "interval": match["interval"],
                "loss": loss["value"],
            }  # fmt: skip
    published, when = report["published"]["edited" if role == "base" else role], "before" if role == "base" else "after"
    return {
        "groups": groups,
        "scores": report["scores"][role],
        "gaps": report["score_gaps"][role],
        "metrics": {name: published[name][when] for name in METRICS},
        "distance": report["distribution"].get(role, {}).get("distance"),
        "findings": {
            attack["name"]: {one["name"]: one["models"][role]["value"] for one in attack["findings"]}
            for attack in report["attacks"]
        },
        "curves": {
            attack["name"]: {one["name"]: one["models"][role]["curve"] for one in attack["findings"]}
            for attack in report["attacks"]
        },
    }


def of_edited(report: Mapping[str, Any]) -> Outcome:
    """The numbers of the edited model, with the verdicts on it."""
    answers = {name: report["summary"][f"is_{name}"] for name in ("gone", "kept")}
    return of_model(report, "edited") | {
        "verdicts": {one["name"]: one["verdict"] for one in report["attacks"]},
        "answers": {**answers, "stays gone": report["summary"]["stays_gone"]},
    }


def match_of(outcome: Outcome | None, name: str) -> float | None:
    """The share of a group that a model answers word for word; of `rephrased`, over all wordings of the target but that
    of the edit. None where nothing of it was asked."""
    groups = (outcome or {}).get("groups", {})
    chosen = [
        one
        for key, one in groups.items()
        if key == name or (name == "rephrased" and key.startswith("target, phrasing"))
    ]
    asked = sum(one["asked"] for one in chosen)
    return sum(one["asked"] * one["match"] for one in chosen) / asked if asked else None
