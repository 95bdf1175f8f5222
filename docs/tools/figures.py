"""Writes the benchmarks' figures into the pages that show them, from benchmarks/results/*.json, so that none drifts.

python docs/tools/figures.py

A page holds a place for a table: a line `<!-- figures: NAME -->`, the table, and a line `<!-- end of figures -->`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "choosing.md")
_RESULTS = ROOT / "benchmarks" / "results"
_PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_MATCHES = "target / rephrased / siblings / rest [loss on target]"
_ABSENT = "–"

# The columns of the tables of real data: where they stand in the results, and what they are called.
_REAL = {
    "hannover | patient": "Hannover, patient",
    "hannover | study": "Hannover, study",
    "vqa_rad | image": "VQA-RAD, image",
    "tofu | author": "TOFU, 2 authors",
}
_REAL_ROWS = {
    "before": "before",
    "retrained without the target": "retrained without it",
    "counterpart (default)": "`chip edit`",
    "oblique": "`--method oblique`",
    "chip, paper's settings": "`--method chip`, paper's settings",
    "chip, all layers": "`--method chip`, all layers",
    "npo": "`--method npo`",
}
_LEVEL_SETS = ("hannover", "vqa_rad")
_LEVEL_NAMES = {"hannover": "Hannover", "vqa_rad": "VQA-RAD"}
_LEVEL_ROWS = {
    "before": "before",
    "retrained": "retrained without it",
    "counterpart": "`chip edit`",
    "oblique": "`--method oblique`",
    "chip": "`--method chip`",
    "chip --layers 0-3": "`--method chip --layers 0-3`, all layers",
    "npo": "`--method npo`",
    "duolearn --no-dp": "`--method duolearn --no-dp`",
}
_HOSPITALS = {"words": "the example", "second": "another seed and size", "sub-words": "words in pieces"}
_LEVELS = ("patient", "study", "section", "institution")


def methods() -> str:
    """Every method on the same patient and study of the example hospital, with what it took."""
    outcomes = _read("methods")["outcomes"]
    cases: dict[str, list[str]] = {}
    for key, found in outcomes.items():
        one = found["outcome"]
        cases.setdefault(key.partition(" | ")[2], []).extend([_cell(one), f"{one['seconds']:.0f}"])
    head = ("target / rephrased / siblings / rest [loss]", "patient", "seconds", "study", "seconds")
    return _table(head, [(name, *cells) for name, cells in cases.items()])


def real() -> str:
    """Real data, each method as one command."""
    outcomes = _read("real")["outcomes"]
    rows = [(name, *(_groups(outcomes.get(f"{case} | {row}")) for case in _REAL)) for row, name in _REAL_ROWS.items()]
    return _table((_MATCHES, *_REAL.values()), rows)


def levels() -> str:
    """Two real data sets by level, a tenth of each forgotten at once."""
    contests = [(name, one) for name in _LEVEL_SETS for one in _read(f"medforget/{name}")["contests"]]
    head = [
        f"{_LEVEL_NAMES[name]} {one['level'].replace('_', ' ')}, {one['set']} ({one['forget']})"
        for name, one in contests
    ]
    rows = [(name, *(_groups(one["rows"].get(row)) for _, one in contests)) for row, name in _LEVEL_ROWS.items()]
    return _table((_MATCHES, *head), rows)


def frontier() -> str:
    """The default beside models retrained without the target, means over targets."""
    outcomes = _read("frontier")["outcomes"]
    rows = []
    for hospital, name in _HOSPITALS.items():
        for row, called in {"counterpart (default)": "chip edit", "retrained": "retrained"}.items():
            cells = [_mean_cell(_of(outcomes, hospital, level, row)) for level in _LEVELS]
            rows.append((f"{name}: {called}", *cells))
    return _table((f"{_MATCHES}; relearned", *_LEVELS), rows)


TABLES: Mapping[str, Callable[[], str]] = {one.__name__: one for one in (methods, real, levels, frontier)}


def filled(page: str) -> str:
    """A page with its tables written anew."""
    return _PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}{place[3]}", page)


def _read(name: str) -> Any:
    return json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _of(outcomes: Mapping[str, Any], hospital: str, level: str, row: str) -> list[Mapping[str, Any]]:
    return [
        found
        for key, found in outcomes.items()
        if (parts := key.split(" | "))[0] == hospital and parts[1] == level and parts[3] == row
    ]


def _cell(one: Mapping[str, Any]) -> str:
    matches = " / ".join(_share(one[name]) for name in ("target", "rephrased", "siblings", "rest"))
    return f"{matches} [{one['loss']:.1f}]"


def _mean_cell(found: Sequence[Mapping[str, Any]]) -> str:
    names = ("target", "rephrased", "siblings", "rest", "loss", "relearned_siblings", "relearned_third")
    means = {name: _mean(one[name] for one in found) for name in names}
    return f"{_cell(means)}; {_share(means['relearned_siblings'])}, {_share(means['relearned_third'])}"


def _groups(row: Mapping[str, Any] | None) -> str:
    """A cell from an audit's groups; why there is none where a limit was exceeded."""
    if row is None:
        return _ABSENT
    if not row.get("groups"):
        return "over its limit"
    groups = row["groups"]
    found = {name: groups.get(group, {}).get("match") for name, group in _GROUPS.items()}
    return _cell({**found, "loss": groups["target"]["loss"]})


_GROUPS = {"target": "target", "rephrased": "target, phrasing 2", "siblings": "siblings", "rest": "rest"}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _share(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
