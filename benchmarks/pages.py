"""The page and the JSON of an audited benchmark: a table for each case, its rows the model before, the retrained one
and every method. Numbers alone: no record is quoted."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from audited import BEFORE, RETRAINED, Bounds, Case, Outcome, key_of
from commands import METHODS

from chip.medforget.examination import METRICS
from chip.version import VERSION

RESULTS = Path(__file__).parent / "results"
SHORT = {
    "forgetting_rate": "FR", "knowledge_preservation": "KPR", "mia_resistance": "MIA resistance", "hmta": "HMTA",
}  # fmt: skip
COLUMNS = """\
Matches are shares of records answered in full by greedy generation, *target* with its 95 % interval; of how many
records stands in brackets. *Loss* is nats a token of the target's true answers, *distance* how far their
distribution is from the retrained model's (Wasserstein, nats). FR, KPR, MIA resistance and HMTA are those of
[docs/duolearn.md](../../docs/duolearn.md#metrics). *Gone*, *kept* and *stays gone* are the three answers of the
report's first screen, then come its verdicts, attack by attack, held against the retrained model. *Met* says
whether the goals of `chip edit` were; *seconds* are of the processor. Methods that train begin with settings for
models of billions of parameters; few trials may end before one is found that moves so small a model. A method
without a row was not run."""


def write_page(
    name: str,
    title: str,
    lines: Sequence[str],
    cases: Sequence[Case],
    found: Mapping[str, Outcome],
    bounds: Bounds,
    models: Mapping[str, Any],
) -> None:
    """Write `results/<name>.md` and `.json`: an introduction, and what is known of each case. models: what is to be
    told of those that were trained, by name."""
    versions = {"chip": VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
    machine = f"{platform.machine()}, 1 thread, no accelerator, other work beside it"
    known = [case for case in cases if key_of(case, BEFORE) in found]
    page = [
        f"# {title}",
        "",
        f"Made by `python benchmarks/{name}.py --trials {bounds.trials} --seconds {bounds.seconds} "
        + f"{' '.join(f'--attack {one}' for one in bounds.attacks)}`",
        f"with {', '.join(f'{k} {v}' for k, v in versions.items())} on {machine}.",
        "",
        *lines,
        "",
        f"Every method is one `chip edit`, which may try {bounds.trials} edits before it settles for one and may take "
        f"{bounds.seconds} s of the processor;",
        f"what it leaves is audited by quick attacks: {', '.join(bounds.attacks)}.",
        *COLUMNS.splitlines(),
    ]
    for case in known:
        page += ["", f"## {case.data_set}, {case.level}: {case.about}", "", *_table(case, found)]
    page += [
        "",
        "## Commands",
        "",
        *(f"- {one}: `chip edit … {bounds.edit(flags.format(last='last'))}`" for one, flags in METHODS.items()),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(page) + "\n")
    outcomes = {
        key_of(case, row): found[key_of(case, row)] for case in known for row in _rows() if key_of(case, row) in found
    }
    content = {
        "machine": machine,
        "versions": versions,
        "trials": bounds.trials,
        "seconds": bounds.seconds,
        "attacks": bounds.attacks,
        "models": models,
        "outcomes": outcomes,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _rows() -> tuple[str, ...]:
    return (BEFORE, RETRAINED, *METHODS)


def _table(case: Case, found: Mapping[str, Outcome]) -> list[str]:
    rows = {name: found[key_of(case, name)] for name in _rows() if key_of(case, name) in found}
    groups = list(rows[BEFORE]["groups"])
    attacks = list(dict.fromkeys(attack for one in rows.values() for attack in one.get("verdicts", {})))
    answers = ("gone", "kept", "stays gone")
    counts = [f"{name} ({rows[BEFORE]['groups'][name]['asked']})" for name in groups]
    heads = [
        "method",
        *counts,
        "loss",
        "distance",
        *SHORT.values(),
        *answers,
        *attacks,
        "tried",
        "met",
        "seconds",
        "MiB",
    ]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for name, one in rows.items():
        if "groups" not in one:
            took = f"{one['seconds']:.0f} | {one['memory']:.0f}"
            lines.append(f"| {name} | {one.get('problem') or 'not audited'}" + " |" * (len(heads) - 3) + f" {took} |")
            continue
        verdicts = [one.get("verdicts", {}).get(attack, "") for attack in attacks]
        cells = [
            *(_match(one["groups"][group], interval=group == "target") for group in groups),
            _number(one["groups"]["target"]["loss"]),
            _number(one["distance"]),
            *(_number(one["metrics"][metric]) for metric in METRICS),
            *(one.get("answers", {}).get(answer, "") for answer in answers),
            *verdicts,
            str(one.get("tried", "")),
            {True: "yes", False: "no"}.get(one.get("goals_met"), ""),
            f"{one['seconds']:.0f}" if "seconds" in one else "",
            f"{one['memory']:.0f}" if "memory" in one else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _match(group: Mapping[str, Any], *, interval: bool) -> str:
    ends = group["interval"]
    return f"{group['match']:.2f}" + (f" ({ends['low']:.2f}–{ends['high']:.2f})" if interval and ends else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
