"""What came of a run: a table for all levels, one for each, and the same as JSON. Numbers alone; no node is named."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from chip.audit.attacks.reconstruction import PLACE
from chip.files import write_private
from chip.medforget.contest import Contest
from chip.medforget.examination import METRICS, Outcome, match_of
from chip.medforget.figure import figure
from chip.medforget.layout import PAGE, PICTURE, VALUES
from chip.medforget.questions import CLASSIFICATION, CLOZE, GENERATION
from chip.medforget.scores import FORGET, REPHRASED, RETAIN
from chip.readable import markdown
from chip.version import VERSION

FORMAT = "chip-medforget-results-1"

_METRICS = dict(zip(METRICS, ("FR", "KPR", "MIA resistance", "HMTA"), strict=True))
_COLUMNS = """\
*Target* is the forget set in the wording of the edit, with its 95 % interval, *rephrased* the same in wordings that no
edit has seen; *siblings*, *shared* (facts of the target's ancestors) and *rest* are retained: shares of records
answered word for word, of how many stands in brackets. *Loss* is nats a token of the target's true answers, *distance*
how far their distribution is from the retrained model's (Wasserstein, nats). Then the scores as published, forget
(rephrased) → retain, and the gap between: *ROUGE-L* and *total* (0.25 · ROUGE-L + 0.75 · a judge's mark ÷ 10) of
generation, the share of answers whose ROUGE-L is 1 of *classification* and *cloze*. Then DuoLearn's: FR, the target's
answers that are not right; KPR, retained right answers after ÷ before; MIA resistance, 1 where losses do not tell the
target's answers from others; HMTA, the mean over concept levels of tokens kept and forgotten. *Reconstructed*: the
share of the target that comes back as its place is told level by level: the question alone, then after the name of its
institution, then of its patient too, and so on down. *Gone*, *kept* and *stays gone* are an audit's three answers,
followed by its verdict on each attack (pass, watch, fail, or not tried: too weak to tell), held against the retrained
model where there is one. *Met* says whether `chip edit` met its own goals, *tried* how many edits it tried, of how
many it might; *seconds* are of the processor, *MiB* the peak of memory. Columns without a value are left out."""


@dataclass(frozen=True)
class Results:
    """What is known. rows: by contest, outcomes by row. sizes: records of each forget set; records: of all data."""

    rows: Mapping[Contest, Mapping[str, Outcome]]
    sizes: Mapping[Contest, int]
    records: int

    @property
    def told(self) -> dict[Contest, Mapping[str, Outcome]]:
        """Contests of which a method was tried, even if none came to anything."""
        return {contest: rows for contest, rows in self.rows.items() if rows}

    @property
    def known(self) -> dict[Contest, Mapping[str, Outcome]]:
        """Contests of which a model was examined."""
        return {contest: rows for contest, rows in self.rows.items() if any("groups" in one for one in rows.values())}


def write_results(folder: Path, results: Results) -> None:
    """Write the tables, the figure and the values into a folder."""
    write_private(folder / VALUES, (json.dumps(as_json(results), indent=1) + "\n").encode())
    write_private(folder / PAGE, page(results).encode())
    if results.known:
        write_private(folder / PICTURE, figure(results.known))


def as_json(results: Results) -> dict[str, Any]:
    """Results as plain values."""
    return {
        "format": FORMAT,
        "chip": VERSION,
        "records": results.records,
        "contests": [
            {
                "level": contest.level,
                "set": contest.chosen.name,
                "targets": len(contest.chosen.forget),
                "forget": results.sizes[contest],
                "rows": {name: dict(one) for name, one in rows.items()},
            }
            for contest, rows in results.rows.items()
        ],
    }


def page(results: Results) -> str:
    """The tables as Markdown."""
    lines = [
        "# MedForget: every method at every level",
        "",
        f"Made by `chip medforget run` (chip {VERSION}) on {results.records} records. Every method is one `chip edit`.",
        "",
        *overview(results),
        "",
        *_COLUMNS.splitlines(),
    ]
    for contest, rows in results.known.items():
        lines += ["", f"## {markdown(_title(results, contest))}", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def overview(results: Results) -> list[str]:
    """A row a method, a column a level: target / rephrased / siblings / rest [loss]."""
    told = results.told
    names = list(dict.fromkeys(name for rows in told.values() for name in rows))
    heads = ["target / rephrased / siblings / rest [loss on target]", *(_title(results, one) for one in told)]
    lines = [_row(heads), "| --- " * len(heads) + "|"]
    return lines + [_row([name, *(short(rows.get(name)) for rows in told.values())]) for name in names]


def _title(results: Results, contest: Contest) -> str:
    return f"{contest.level}, {contest.chosen.name} ({results.sizes[contest]} of {results.records} records)"


def short(outcome: Outcome | None) -> str:
    """target / rephrased / siblings / rest [loss on target]; why there is nothing, or nothing."""
    if outcome is None:
        return ""
    if "groups" not in outcome:
        return str(outcome["problem"])
    matches = (_number(match_of(outcome, name)) for name in ("target", "rephrased", "siblings", "rest"))
    return f"{' / '.join(matches)} [{outcome['groups']['target']['loss']:.1f}]"


def _table(rows: Mapping[str, Outcome]) -> list[str]:
    columns = _columns(rows)
    lines = [_row(["method", *columns]), "| --- " * (len(columns) + 1) + "|"]
    for name, one in rows.items():
        if "groups" in one:
            lines.append(_row([name, *(cell(one) for cell in columns.values())]))
        else:
            took = [_whole(one.get("seconds")), _whole(one.get("memory"))]
            lines.append(_row([name, str(one["problem"]), *[""] * (len(columns) - 3), *took]))
    return lines


Cell = Callable[[Outcome], str]


def _columns(rows: Mapping[str, Outcome]) -> dict[str, Cell]:
    """The columns of a table, by their heads; those that would be empty in every row are left out."""
    whole = [one for one in rows.values() if "groups" in one]
    first = whole[0]["groups"]
    columns: dict[str, Cell] = {f"target ({first['target']['asked']})": _target}
    columns["rephrased"] = lambda one: _number(match_of(one, "rephrased"))
    for name in ("siblings", "shared", "rest"):
        if name in first:
            columns[f"{name} ({first[name]['asked']})"] = partial(_match, name=name)
    columns["loss"] = lambda one: _number(one["groups"]["target"]["loss"])
    columns["distance"] = lambda one: _number(one["distance"])
    for task, measure, head in _SCORES:
        columns[head] = partial(_sides, task=task, measure=measure)
        columns[f"{head}, gap"] = partial(_gap, task=task, measure=measure)
    for metric, head in _METRICS.items():
        columns[head] = partial(_metric, metric=metric)
    columns["reconstructed"] = _reconstruction
    for answer in ("gone", "kept", "stays gone"):
        columns[answer] = partial(_said, kind="answers", name=answer)
    for attack in dict.fromkeys(name for one in whole for name in one.get("verdicts", {})):
        columns[attack] = partial(_said, kind="verdicts", name=attack)
    kept = {head: cell for head, cell in columns.items() if any(cell(one) not in ("", "–") for one in whole)}
    took: dict[str, Cell] = {
        "tried": lambda one: f"{one['tried']} of {one['trials']}" if "tried" in one else "",
        "met": lambda one: {"True": "yes", "False": "no"}.get(str(one.get("goals_met")), ""),
        "seconds": lambda one: _whole(one.get("seconds")),
        "MiB": lambda one: _whole(one.get("memory")),
    }
    return kept | took


_SCORES: Sequence[tuple[str, str, str]] = (
    (GENERATION, "rouge_l", "ROUGE-L"),
    (GENERATION, "total", "total"),
    (CLASSIFICATION, "accuracy", "classification"),
    (CLOZE, "accuracy", "cloze"),
)


def _target(one: Outcome) -> str:
    group = one["groups"]["target"]
    ends = group["interval"]
    return f"{group['match']:.2f}" + (f" ({ends['low']:.2f}–{ends['high']:.2f})" if ends else "")


def _match(one: Outcome, name: str) -> str:
    return _number(match_of(one, name))


def _gap(one: Outcome, task: str, measure: str) -> str:
    return _number(one["gaps"].get(task, {}).get(measure))


def _metric(one: Outcome, metric: str) -> str:
    return _number(one["metrics"][metric])


def _said(one: Outcome, kind: str, name: str) -> str:
    return str(one.get(kind, {}).get(name, ""))


def _sides(one: Outcome, task: str, measure: str) -> str:
    """Forget (and rephrased, where it was asked) → retain."""
    scores = one["scores"]
    values = {side: scores.get(side, {}).get(task, {}).get(measure) for side in (FORGET, REPHRASED, RETAIN)}
    if values[FORGET] is None and values[RETAIN] is None:
        return "–"
    rephrased = "" if values[REPHRASED] is None else f" ({values[REPHRASED]:.2f})"
    return f"{_number(values[FORGET])}{rephrased} → {_number(values[RETAIN])}"


def _reconstruction(one: Outcome) -> str:
    """The share that is back by levels of its place that are told."""
    curve = one["curves"].get("reconstruction", {}).get(PLACE, [])
    return ", ".join(f"{value:.2f}" for _, value in curve) or "–"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
