"""The use case of running: every method edits the model, and what each leaves is examined, attacked and put in a table.

An edit is the command that a user would type, alone in its process, so that one that fails or runs out of memory takes
nothing else along. Processes that a launcher started share the methods; each outcome is a file.
"""

import re
import shutil
from pathlib import Path

from chip.audit.audit import GOLD_KNOWS
from chip.files import hidden, lock_of, locked
from chip.medforget.attempts import Ran, attempt, chip_command, run
from chip.medforget.contest import BEFORE, RETRAINED, Contest, Method, digest, shared, slug
from chip.medforget.examination import Examination, How, Outcome, match_of, of_edited, of_model
from chip.medforget.results import Results, write_results
from chip.medforget.splits import members
from chip.progress import Track, silent
from chip.workflow.medforget.run_prepared import Notice, PreparedRun, RunRequest, prepare_run

_PATH = re.compile(r"/(?:[^\s/]+/)+([^\s/]*)")
"""A file by its whole path; its name is what follows the last slash."""


def carry_out_run(request: RunRequest, *, track: Track = silent, notice: Notice = lambda _: None) -> Results:
    """Measure what is not measured yet, and write the tables after every method.

    Raises ChipError where model, data, splits and retrained models do not go together.
    """
    found = prepare_run(request, track, notice)
    busy = f"another run is writing {request.out}; wait for it, or name another --out"
    with locked(hidden(request.out, f"run-{found.rank}"), busy):
        return _run(found)


def _run(found: PreparedRun) -> Results:
    request = found.request
    pairs = [(contest, method) for contest in found.contests for method in request.methods]
    standing: tuple[str, Examination] | None = None
    for contest, method in shared(pairs, found.rank, found.size):
        if found.has(contest, method):
            continue
        _collected(found)
        if standing is None or standing[0] != contest.name:
            standing = (contest.name, _examination(found, contest))
        outcome = _measured(found, contest, method, standing[1])
        command = digest(found.command(contest, method))
        found.outcomes.put(contest, method.said, found.context(contest), command, outcome)
        _written(found)
    results = _written(found)
    if not request.keep and all(method.said in results.rows[contest] for contest, method in pairs):
        shutil.rmtree(found.work, ignore_errors=True)
    return results


def _collected(found: PreparedRun) -> None:
    """The statistics that every method without training starts from: one process collects them, the others wait."""
    with locked(lock_of(found.statistics), "", wait=True):
        if found.statistics.exists():
            return
        data = ["--data", str(found.request.data.resolve()), "--device", found.device, "--dtype", found.request.dtype]
        where = ["--out", str(found.statistics), "--json"]
        for _ in found.track(range(1), "collecting statistics"):
            run(chip_command("collect", str(found.model), *data, *where), found.work / f"process-{found.rank}")


def _examination(found: PreparedRun, contest: Contest) -> Examination:
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


def _measured(found: PreparedRun, contest: Contest, method: Method, examination: Examination) -> Outcome:
    """A method's edit and its examination; the rows before and retrained are kept beside it. A method that fails or
    reaches its limit is told as one that did."""
    out = found.work / f"{slug(contest.name)}--{slug(method.said)}"
    ran = _edited(found, contest, method, out)
    outcome: Outcome = {
        "seconds": ran.seconds,
        "memory": ran.memory,
        "trials": found.request.trials,
        "problem": _nameless(ran.problem, contest),
        "stopped_at": found.request.seconds if ran.stopped else 0,
    }
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


def _doubt(found: PreparedRun, contest: Contest) -> None:
    """Say so where the retrained model seems to have been trained with what it should never have seen."""
    rows = found.rows(contest)
    before, retrained = (match_of(rows.get(name), "target") or 0.0 for name in (BEFORE, RETRAINED))
    if retrained > GOLD_KNOWS * before > 0:
        found.notice(
            f"{contest.gold} answers {retrained:.0%} of {contest.name}, and the model before {before:.0%}: was it "
            "trained without the forget set?"
        )


def _edited(found: PreparedRun, contest: Contest, method: Method, out: Path) -> Ran:
    request = found.request
    where = ["--data", str(request.data.resolve()), "--statistics", str(found.statistics), "--out", str(out)]
    ways = ["--device", found.device, "--dtype", request.dtype, "--force", "--json"]
    command = chip_command("edit", str(found.model), *found.command(contest, method), *where, *ways)
    found.notice(f"{contest.name}: chip edit --method {method.said}")
    return attempt(command, found.work / f"process-{found.rank}", request.seconds)


def _nameless(problem: str, contest: Contest) -> str:
    """A problem without the names of what is to be forgotten, and without folders: tables are shown around."""
    names = {part for node in contest.chosen.forget for part in node}
    problem = re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), "…", problem)
    return _PATH.sub(r"…/\1", problem)


def _written(found: PreparedRun) -> Results:
    """The tables and the figure of everything that is known so far, whoever measured it."""
    with locked(lock_of(found.request.out / "results"), "", wait=True):
        # Read under the lock, lest a table that another process wrote since then is replaced by one that knows less.
        known = {one: found.rows(one) for one in found.every}
        known = {one: rows for one, rows in known.items() if rows or one in found.contests}
        sizes = {one: len(members(found.hierarchy, one.chosen.forget)) for one in known}
        results = Results(known, sizes, len(found.hierarchy.records))
        write_results(found.request.out, results)
    return results
