"""The use case of running: every method edits the model, and what each leaves is examined, attacked and put in a table.

An edit is the command that a user would type, alone in its process, so that one that fails or runs out of memory takes
nothing else along. Processes that a launcher started share the methods; each outcome is a file.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chip.audit.attacks import ATTACKS
from chip.audit.audit import GOLD_KNOWS
from chip.audit.changes import refuse_unlike
from chip.audit.judging import Judge
from chip.audit.metrics import refuse_without_libraries
from chip.collect.team import launched, own_device
from chip.errors import ChipError, UsageError
from chip.files import explained, hidden, lock_of, locked, refuse_unwritable
from chip.hierarchy import Hierarchy
from chip.medforget.attempts import Ran, attempt, chip_command, run
from chip.medforget.contest import (
    BEFORE,
    RETRAINED,
    Contest,
    Method,
    Outcomes,
    contests,
    digest,
    shared,
    slug,
)  # fmt: skip
from chip.medforget.examination import Examination, How, Outcome, match_of, of_edited, of_model
from chip.medforget.layout import SPLITS
from chip.medforget.results import Results, write_results
from chip.medforget.splits import read_splits, refuse_unsound
from chip.models.checkpoint import Checkpoint
from chip.models.loading import resolve_model
from chip.progress import Track, silent
from chip.records import read_records
from chip.records.digests import asked_digest
from chip.version import VERSION

Notice = Callable[[str], None]

ATTACKS_MADE = ("rephrasing", "membership", "reconstruction", "prefill")
"""Attacks of a run unless others are asked for: the paper's, and the cheap ones that break most edits."""


@dataclass(frozen=True)
class RunRequest:
    """What `chip medforget run` was asked. levels, sets: names; all where none. gold: a retrained model, or a folder of
    them by level. trials: edits that a method may try. seconds: of the processor that it may take; 0 for any. keep:
    leave edited checkpoints where they are."""

    model: str
    data: Path
    out: Path
    methods: tuple[Method, ...]
    levels: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    splits: Path | None = None
    gold: Path | None = None
    trials: int = 8
    seconds: int = 0
    attacks: tuple[str, ...] = ATTACKS_MADE
    quick: bool = True
    judge: Judge | None = None
    nonmembers: Path | None = None
    records: int = 200
    keep: bool = False
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class _Run:
    """A request that was read and checked: its contests, and every one that the splits have; and what this process is
    of those that share it."""

    request: RunRequest
    model: Path
    hierarchy: Hierarchy
    contests: tuple[Contest, ...]
    every: tuple[Contest, ...]
    outcomes: Outcomes
    base: str
    golds: Mapping[Path, str]
    strangers: str
    device: str
    rank: int
    size: int
    track: Track
    notice: Notice

    @property
    def work(self) -> Path:
        """Where this process's edits lie until they are examined."""
        return self.request.out.resolve() / "work"

    @property
    def statistics(self) -> Path:
        """Those of another model or other data, which an earlier run may have left there, are called otherwise."""
        return self.work / f"statistics-{digest([self.base, self.request.dtype])[:12]}.safetensors"

    def context(self, contest: Contest) -> str:
        """What outcomes of a contest are of, however the edits were made."""
        request = self.request
        judge = None if request.judge is None else [request.judge.endpoint, request.judge.model]
        asked = [request.attacks, request.quick, judge, request.records, request.seed, self.strangers]
        gold = self.golds[contest.gold] if contest.gold else None
        return digest([VERSION, self.base, gold, contest.chosen.forget, asked])

    def command(self, contest: Contest, method: Method) -> list[str]:
        """The flags by which a method is told what to forget and how."""
        forget = [flag for node in contest.chosen.forget for flag in ("--forget", "/".join(node))]
        tuned = [] if "--no-tune" in method.flags else ["--trials", str(self.request.trials)]
        own = [] if "--seed" in method.flags else ["--seed", str(self.request.seed)]
        return ["--method", method.name, *method.flags, *tuned, *own, "--dtype", self.request.dtype, *forget]


def carry_out_run(request: RunRequest, *, track: Track = silent, notice: Notice = lambda _: None) -> Results:
    """Measure what is not measured yet, and write the tables after every method.

    Raises ChipError where model, data, splits and retrained models do not go together.
    """
    found = _prepared(request, track, notice)
    busy = f"another run is writing {request.out}; wait for it, or name another --out"
    with locked(hidden(request.out, f"run-{found.rank}"), busy):
        return _run(found)


def _run(found: _Run) -> Results:
    request = found.request
    pairs = [(contest, method) for contest in found.contests for method in request.methods]
    standing: tuple[str, Examination] | None = None
    for contest, method in shared(pairs, found.rank, found.size):
        asked = (contest, method.said, found.context(contest), digest(found.command(contest, method)))
        if found.outcomes.has(*asked):
            continue
        _collected(found)
        if standing is None or standing[0] != contest.name:
            standing = (contest.name, _examination(found, contest))
        found.outcomes.put(*asked, _measured(found, contest, method, standing[1]))
        _written(found)
    results = _written(found)
    if not request.keep and all(method.said in results.rows[contest] for contest, method in pairs):
        shutil.rmtree(found.work, ignore_errors=True)
    return results


def _prepared(request: RunRequest, track: Track, notice: Notice) -> _Run:
    _refuse(request)
    refuse_without_libraries()
    if request.judge is not None:
        request.judge.refuse_unready()
    model = resolve_model(request.model).resolve()
    hierarchy = read_records(request.data)
    splits = read_splits(request.splits or request.data / SPLITS)
    chosen = contests(splits, request.levels, request.sets, request.gold)
    for contest in chosen:
        if contest.level not in hierarchy.levels:
            levels = ", ".join(hierarchy.levels)
            raise ChipError(f"the splits are of a level {contest.level!r}; the records have {levels}")
        refuse_unsound(hierarchy, contest.level, contest.chosen.forget, splits.siblings)
        if contest.gold is None and request.gold is not None:
            notice(f"{request.gold} holds no retrained model for {contest.name}, which has no such row")
    rank, size = launched()
    device = own_device(request.device) if size > 1 else request.device
    base = digest([*_identified(model), asked_digest(hierarchy)])
    one_model = request.gold is not None and (request.gold / "config.json").is_file()
    every = chosen if one_model else contests(splits, (), (), request.gold)
    for one in every:
        if one.gold is not None:
            refuse_unlike(Checkpoint(model), Checkpoint(one.gold))
    golds = {one.gold: digest(_identified(one.gold)) for one in every if one.gold is not None}
    strangers = "" if request.nonmembers is None else asked_digest(read_records(request.nonmembers))
    with explained(request.out):
        request.out.mkdir(parents=True, exist_ok=True)
    outcomes = Outcomes(request.out, notice)
    return _Run(
        request, model, hierarchy, chosen, every, outcomes, base, golds, strangers, device, rank, size, track, notice
    )


def _identified(model: Path) -> list[str]:
    checkpoint = Checkpoint(model)
    return [checkpoint.digest, checkpoint.prompts_digest]


def _refuse(request: RunRequest) -> None:
    for flag, value, least in (
        ("--trials", request.trials, 1),
        ("--seconds", request.seconds, 0),
        ("--verify-records", request.records, 1),
        ("--batch-size", request.batch_size, 1),
        ("--seed", request.seed, 0),
    ):
        if value < least:
            raise UsageError(f"{flag} {value}: give {least} or more")
    if unknown := [name for name in request.attacks if name not in ATTACKS]:
        raise UsageError(f"--attacks {unknown[0]!r} is none of {', '.join(ATTACKS)} or none")
    if request.out.is_file():
        raise ChipError(f"--out {request.out} is a file; name a directory")
    refuse_unwritable(request.out / "results.json")
    if (request.out / "config.json").exists() or (request.out / "records.jsonl").exists():
        raise ChipError(f"--out {request.out} holds a model or records; name another directory")


def _collected(found: _Run) -> None:
    """The statistics that every method without training starts from: one process collects them, the others wait."""
    with locked(lock_of(found.statistics), "", wait=True):
        if found.statistics.exists():
            return
        data = ["--data", str(found.request.data.resolve()), "--device", found.device, "--dtype", found.request.dtype]
        where = ["--out", str(found.statistics), "--json"]
        for _ in found.track(range(1), "collecting statistics"):
            run(chip_command("collect", str(found.model), *data, *where), found.work / f"process-{found.rank}")


def _examination(found: _Run, contest: Contest) -> Examination:
    request = found.request
    how = How(
        request.attacks,
        request.quick,
        request.judge,
        request.records,
        request.nonmembers,
        found.device,
        request.dtype,
        request.batch_size,
        request.seed,
    )
    split = found.hierarchy.split(contest.chosen.forget)
    return Examination(found.model, contest.gold, found.hierarchy, split, how, found.track)


def _measured(found: _Run, contest: Contest, method: Method, examination: Examination) -> Outcome:
    """A method's edit and its examination; the rows before and retrained are kept beside it. A method that fails or
    reaches its limit is told as one that did."""
    out = found.work / f"{slug(contest.name)}--{slug(method.said)}"
    ran = _edited(found, contest, method, out)
    outcome: Outcome = {"seconds": ran.seconds, "memory": ran.memory, "problem": _nameless(ran.problem, contest)}
    if not ran.problem:
        report = examination.report(out)
        for row, role in ((BEFORE, "base"), (RETRAINED, "gold")):
            if role in report["scores"]:
                found.outcomes.put(contest, row, found.context(contest), "", of_model(report, role))
        _doubt(found, contest)
        outcome |= of_edited(report) | {
            "tried": len((ran.said.get("tuning") or {}).get("trials", [None])),
            "goals_met": (ran.said.get("verdict") or {}).get("met"),
        }
    if not found.request.keep:
        shutil.rmtree(out, ignore_errors=True)
    return outcome


def _doubt(found: _Run, contest: Contest) -> None:
    """Say so where the retrained model seems to have been trained with what it should never have seen."""
    rows = found.outcomes.rows(contest, found.context(contest))
    before, retrained = (match_of(rows.get(name), "target") or 0.0 for name in (BEFORE, RETRAINED))
    if retrained > GOLD_KNOWS * before > 0:
        found.notice(
            f"{contest.gold} answers {retrained:.0%} of {contest.name}, and the model before {before:.0%}: was it "
            "trained without the forget set?"
        )


def _edited(found: _Run, contest: Contest, method: Method, out: Path) -> Ran:
    request = found.request
    where = ["--data", str(request.data.resolve()), "--statistics", str(found.statistics), "--out", str(out)]
    ways = ["--device", found.device, "--force", "--json"]
    command = chip_command("edit", str(found.model), *found.command(contest, method), *where, *ways)
    found.notice(f"{contest.name}: chip edit --method {method.said}")
    return attempt(command, found.work / f"process-{found.rank}", request.seconds)


def _nameless(problem: str, contest: Contest) -> str:
    """A problem without the names of what is to be forgotten: tables are shown around."""
    names = {part for node in contest.chosen.forget for part in node}
    return re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), "…", problem)


def _written(found: _Run) -> Results:
    """The tables and the figure of everything that is known so far, whoever measured it."""
    known = {one: found.outcomes.rows(one, found.context(one)) for one in found.every}
    known = {one: rows for one, rows in known.items() if rows or one in found.contests}
    sizes = {one: len(found.hierarchy.split(one.chosen.forget).target) for one in known}
    results = Results(known, sizes, len(found.hierarchy.records), found.request.trials, found.request.seconds)
    with locked(lock_of(found.request.out / "results"), "", wait=True):
        write_results(found.request.out, results)
    return results
