"""The use case of an audit: models and records are checked, each model is examined, and a report comes of it."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chip.audit.attacks import ATTACKS
from chip.audit.audit import Audit
from chip.audit.changes import changes
from chip.audit.exam import Exam, Sitting, set_exam
from chip.audit.examining import Examined, Examiner
from chip.audit.harness import Results, refuse_unready
from chip.audit.judging import Judge
from chip.audit.kept import KeptAudit
from chip.audit.metrics import refuse_without_libraries
from chip.audit.page import render
from chip.audit.report import compose, serialised
from chip.audit.subject import Attack
from chip.errors import ChipError, UsageError
from chip.files import explained, file_digest, hidden, lock_of, locked, refuse_foreign, refuse_unwritable, write_private
from chip.hierarchy import Hierarchy
from chip.measure import score, wholes
from chip.progress import Track, silent
from chip.records import read_records
from chip.records.digests import asked_digest
from chip.training_settings import at_least
from chip.version import VERSION
from chip.workflow.asking import Row, rows
from chip.workflow.audited_models import AuditedModels, open_models

SWAPPED = 0.2
"""A target that the edited model knows by so much better than the base says that the two were swapped."""

_LIBRARIES = ("peft", "torchao", "bitsandbytes")
"""What attacks use where it is installed."""

REPORT, PAGE = "report.json", "report.html"


@dataclass(frozen=True)
class AuditRequest:
    """What `chip audit` was asked. attacks: names; None for all, or for those of a quick audit where `quick`.

    gold: a model retrained without the target. compare: further checkpoints, which sit the exam. records: how many
    retained records are asked of a group. harness: tasks of the evaluation harness; harness_tasks: where tasks of the
    user's own are described. out: the report's directory; nothing is written where None.
    """

    base: str
    edited: str
    data: Path
    forget: tuple[str, ...]
    gold: str | None = None
    out: Path | None = None
    attacks: tuple[str, ...] | None = None
    quick: bool = False
    compare: tuple[str, ...] = ()
    lexicon: Path | None = None
    nonmembers: Path | None = None
    utility: Path | None = None
    judge: Judge | None = None
    harness: tuple[str, ...] = ()
    harness_tasks: Path | None = None
    show_records: bool = False
    records: int = 200
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 16
    seed: int = 0
    force: bool = False

    @property
    def chosen(self) -> tuple[Attack, ...]:
        """The attacks that are made, in the registry's order. Raises UsageError where one is called otherwise."""
        if self.attacks is None:
            return tuple(one for one in ATTACKS.values() if one.quick or not self.quick)
        if "none" in self.attacks and len(self.attacks) > 1:
            raise UsageError("--attacks none stands beside the name of an attack; give one or the other")
        unknown = [name for name in self.attacks if name not in (*ATTACKS, "none")]
        if unknown:
            raise UsageError(f"--attacks {unknown[0]!r} is none of {', '.join(ATTACKS)} or none")
        return tuple(one for one in ATTACKS.values() if one.name in self.attacks)


@dataclass(frozen=True)
class AuditResult:
    """The report as plain values, the table of before and after, and where the report was written."""

    report: dict[str, Any]
    rows: tuple[Row, ...]
    out: Path | None


def carry_out_audit(
    request: AuditRequest,
    *,
    records: Hierarchy | None = None,
    track: Track = silent,
    notice: Callable[[str], None] = lambda _: None,
) -> AuditResult:
    """Audit an edit. What was found so far is kept beside the report until that is written.

    records: those that stand for the request's data directory.

    Raises ChipError where models and records do not go together or the report cannot be written.
    """
    _refuse_numbers(request)
    refuse_without_libraries()
    if request.harness:
        refuse_unready(request.harness, request.harness_tasks)
    if request.judge is not None:
        request.judge.refuse_unready()
    chosen = request.chosen
    if request.out is None:
        return _audited(request, records, chosen, None, track, notice)
    refuse_report(request.out, force=request.force)
    with locked(lock_of(request.out), f"another audit is writing {request.out}; wait for it, or name another --out"):
        return _audited(request, records, chosen, hidden(request.out, "audit"), track, notice)


def _audited(
    request: AuditRequest,
    records: Hierarchy | None,
    chosen: Sequence[Attack],
    progress: Path | None,
    track: Track,
    notice: Callable[[str], None],
) -> AuditResult:
    hierarchy = records or read_records(request.data)
    split = hierarchy.split([hierarchy.resolve(name) for name in request.forget])
    exam = set_exam(
        hierarchy,
        split,
        lexicon=request.lexicon,
        nonmembers=request.nonmembers,
        utility=request.utility,
        records=request.records,
        seed=request.seed,
    )
    models = open_models(request.base, request.edited, request.gold, request.compare)
    kept = KeptAudit(progress, _identity(request, exam, models), notice)
    examiner = Examiner(
        exam,
        models.roles["base"],
        chosen,
        kept,
        request.device,
        request.dtype,
        request.batch_size,
        request.seed,
        request.quick,
        track,
    )
    versions, methods, harness = _examined(request, examiner, models)
    judge = request.judge
    marks = {} if judge is None else {role: examiner.marks(role, one.sitting, judge) for role, one in versions.items()}
    changed = changes(models.roles["base"], models.roles["edited"], track)
    audit = Audit(exam, tuple(chosen), versions, methods, changed, marks, harness, request.seed)
    report = compose(audit, _described(request, chosen, models, hierarchy), show_records=request.show_records)
    if request.out is not None:
        write_report(request.out, report)
    kept.remove()
    before, after = (versions[role].sitting.answers for role in ("base", "edited"))
    return AuditResult(report, rows(wholes(exam.groups), before, after), request.out)


def _examined(
    request: AuditRequest, examiner: Examiner, models: AuditedModels
) -> tuple[dict[str, Examined], dict[str, Sitting], dict[str, Results]]:
    """Every model of the audit, every one that is compared, and results of the harness by role; one model is in memory
    at a time."""
    edited = examiner.sitting("edited", examiner.model(models.roles["edited"]))
    versions: dict[str, Examined] = {}
    harness: dict[str, Results] = {}
    for role, checkpoint in models.roles.items():
        model = examiner.model(checkpoint)
        sitting = examiner.sitting(role, model)
        if role == "base":
            _refuse_swapped(request, examiner, sitting, edited)
        versions[role] = examiner.attacked(role, model, sitting)
        if request.harness:
            harness[role] = examiner.harness(role, model, request.harness, request.harness_tasks)
        del model
    methods = {name: examiner.sitting(name, examiner.model(one)) for name, one in models.compared.items()}
    return versions, methods, harness


def _refuse_swapped(request: AuditRequest, examiner: Examiner, base: Sitting, edited: Sitting) -> None:
    exam = examiner.exam

    def known(sitting: Sitting) -> float:
        return score([sitting.answers[exam.target.name, i] for i in range(len(exam.target.records))]).exact_match

    if known(edited) > known(base) + SWAPPED:
        examiner.kept.remove()
        raise ChipError(
            f"{request.edited} answers {known(edited):.0%} of the target and {request.base} {known(base):.0%}: give "
            "the model before the edit first and the edited one second"
        )


def _refuse_numbers(request: AuditRequest) -> None:
    for flag, value, least in (
        ("--verify-records", request.records, 1),
        ("--batch-size", request.batch_size, 1),
        ("--seed", request.seed, 0),
    ):
        at_least(flag, value, least)


def refuse_report(out: Path, *, force: bool) -> None:
    """Raise ChipError where a report may not be written to a directory."""
    refuse_unwritable(out / REPORT)
    if out.is_file():
        raise ChipError(f"--out {out} is a file; name a directory")
    for name in ("config.json", "records.jsonl"):
        if (out / name).exists():
            raise ChipError(
                f"--out {out} holds {name}, a model or records; a report names nodes: name another directory"
            )
    for name in (REPORT, PAGE):
        refuse_foreign(out / name)
    if (out / REPORT).exists() and not force:
        raise ChipError(f"{out} holds a report; name another --out, or replace it with --force")


def _identity(request: AuditRequest, exam: Exam, models: AuditedModels) -> str:
    """A digest of what bears on the answers that are kept."""
    tasks = request.harness_tasks
    described = sorted(path for path in tasks.rglob("*") if path.is_file()) if tasks is not None else []
    content = [
        VERSION,
        exam.digest,
        None if request.lexicon is None else file_digest(request.lexicon),
        {name: [one.digest, one.prompts_digest] for name, one in models.named.items()},
        [[str(path), file_digest(path)] for path in described],
        None if request.judge is None else [request.judge.endpoint, request.judge.model],
        [request.device, request.dtype, request.batch_size, request.seed, request.quick],
        [name for name in _LIBRARIES if find_spec(name) is not None],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _described(
    request: AuditRequest, chosen: Sequence[Attack], models: AuditedModels, hierarchy: Hierarchy
) -> dict[str, Any]:
    """What was audited and how, as plain values."""
    return {
        "models": {name: {"directory": str(one.directory), "digest": one.digest} for name, one in models.named.items()},
        "data": {"directory": str(request.data), "digest": asked_digest(hierarchy), "records": len(hierarchy.records)},
        "forget": ["/".join(hierarchy.resolve(name)) for name in request.forget],
        "levels": list(hierarchy.levels),
        "attacks": [one.name for one in chosen],
        "not_tried": [name for name in ATTACKS if name not in {one.name for one in chosen}],
        "quick": request.quick,
        "judge": None if request.judge is None else f"{request.judge.model} at {request.judge.endpoint}",
        "records_per_group": request.records,
        "seed": request.seed,
    }


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Write report.html and report.json, mode 0600. The page first: where report.json stands, the report is whole."""
    page = render(report).encode()
    if (out / REPORT).exists():
        with explained(out / REPORT):
            os.unlink(out / REPORT)
    write_private(out / PAGE, page)
    write_private(out / REPORT, serialised(report))
