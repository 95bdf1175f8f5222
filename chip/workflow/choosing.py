"""A request solved in memory: the model is asked before, and settings are searched where that is wanted."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from chip.collect.fitting import Notice
from chip.measure import Answers, Group, Part, audit_groups, wholes
from chip.progress import Track, silent
from chip.solve.problem import Problem, Solved
from chip.tuning.space import Space
from chip.workflow.asking import ask
from chip.workflow.prepared import PreparedEdit
from chip.workflow.request import EditRequest
from chip.workflow.solvers import solve
from chip.workflow.tune import Tuner, Tuning, Verdict, choose_strength


@dataclass(frozen=True)
class Choice:
    """An edit that was chosen, not written yet. `before` holds the model's answers to `groups`, empty where nobody
    asks; `parts` are what the edit is judged on; `verdict` is that of an edit which is not to be written."""

    solved: Solved
    groups: tuple[Group, ...]
    before: Answers
    parts: Sequence[Part]
    tuning: Tuning | None = None
    verdict: Verdict | None = None


def groups_of(prepared: PreparedEdit) -> tuple[Group, ...]:
    """Whom a request asks before and after."""
    request = prepared.request
    return audit_groups(prepared.hierarchy, prepared.split, limit=request.verify_records, seed=request.settings.seed)


def choose(
    request: EditRequest,
    problem: Problem,
    space: Space,
    groups: tuple[Group, ...],
    track: Track = silent,
    notice: Notice = warnings.warn,
) -> Choice:
    """Ask the model about the groups, solve the request and, where it misses its goals, try other settings."""
    before: Answers = {}
    if request.verify and (request.searches or not request.dry_run):
        before = ask(problem.loaded, groups, request.settings.batch_size, track, "asking the model before")
        _say_if_unknown(before, notice)
    if not request.searches:
        return Choice(solve(problem), groups, before, wholes(groups))
    tuner = Tuner(problem, groups, before, request.tuning)
    tuning, solved = choose_strength(tuner, space, request.tuning, track)
    parts = tuner.parts if tuning.halved else wholes(groups)
    verdict = tuner.judge(solved, halved=tuning.halved) if request.dry_run else None
    return Choice(solved, groups, before, parts, tuning, verdict)


def _say_if_unknown(before: Answers, notice: Notice) -> None:
    """What a model does not know it cannot be made to forget, and goals are then met by doing nothing."""
    target = [answer for (group, _), answer in before.items() if group == "target"]
    known = sum(answer.exact for answer in target)
    if known < len(target) / 2:
        notice(
            f"the model answers {known} of the target's {len(target)} records rightly before the edit: there may be "
            "little to forget, or these are not the records that it learnt from"
        )
