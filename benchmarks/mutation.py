"""Mutation testing of `chip/solve` and `chip/edit`: is there a test that notices when the arithmetic is another?

    python benchmarks/mutation.py [run] [--room arithmetic] [--keep DIRECTORY]
    python benchmarks/mutation.py note

mutmut (https://mutmut.readthedocs.io) changes one operator, number, argument or condition at a time, and runs the tests
that reach the function. A room is a few modules with the tests that are theirs: those that run in process and in
seconds. Each is mutated in a copy that is laid out as a wheel is, so that what is imported is the mutated copy and
never the checkout. What an error says is not mutated: whether one is raised is. Nor are functions with decorators,
which mutmut passes over.

`run` goes on where it was stopped, if DIRECTORY is kept, and tests again what changed; `note` notes down what one that
has not ended has found. Rooms, and why survivors make no difference that could be observed, stand in `mutation.toml`.
Both write `results/mutation.json`, with the difference that every survivor is, and from it `results/mutation.md`.
"""

import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
ROOT, RESULTS = HERE.parent, HERE / "results"
KEPT = RESULTS / "mutation.json"
PLAN = tomllib.loads((HERE / "mutation.toml").read_text())
ROOMS: dict[str, Any] = PLAN["rooms"]
"""By name: `modules` of chip, `tests` by their ids, in files under tests/."""

QUICK = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CHIP_EXAMPLES": "mutation"}
"""A mutant takes a second or two, so that what pytest does around the tests shows, and so would looking for the least
example that fails (`tests/conftest.py`)."""

STATUS = {1: "killed", 3: "killed", 0: "survived", 5: "untested", 33: "untested", 34: "left out"}
STATUS |= dict.fromkeys((-24, 24, 36, 152, 255), "timed out")

app = typer.Typer()


@dataclass(frozen=True)
class Mutant:
    """One change of the source: its name, what became of it, and the difference that it is."""

    name: str
    status: str
    difference: str = ""

    @property
    def module(self) -> str:
        return self.name.partition(".x")[0]


@app.callback(invoke_without_command=True)
def everything(context: typer.Context) -> None:
    """Without a command, `run`."""
    if context.invoked_subcommand is None:
        run()


@app.command()
def run(
    room: Annotated[list[str] | None, typer.Option(help="Which; may be repeated.")] = None,
    keep: Annotated[Path, typer.Option(help="Where copies and progress are kept.")] = Path("build/mutation"),
    children: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Mutate rooms, all of them unless some are named, and write the results."""
    for name in room or ROOMS:
        place = keep.resolve() / name
        lay_out(place, **ROOMS[name])
        _forget_survivors(place)
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children)]
        done = subprocess.run(command, cwd=place, env={**os.environ, **QUICK}, check=False)
        if done.returncode:
            raise SystemExit(f"mutmut ended with {done.returncode} in {place}")
        _keep(found(place, ROOMS[name]["modules"]))
    page()


@app.command()
def note(
    room: Annotated[list[str] | None, typer.Option(help="Which; may be repeated.")] = None,
    keep: Annotated[Path, typer.Option(help="Where copies and progress are kept.")] = Path("build/mutation"),
) -> None:
    """Note down what a run has found so far, whether or not it has ended."""
    for name in room or ROOMS:
        if (keep / name / "mutants").exists():
            _keep(found(keep.resolve() / name, ROOMS[name]["modules"]))
    page()


def lay_out(place: Path, modules: list[str], tests: list[str]) -> None:
    """A copy of the package and the tests, as a wheel would install them, with mutmut's settings."""
    place.mkdir(parents=True, exist_ok=True)
    packages = {"chip": ".", "kernels": "kernels", "examples/hospital": "hospital", "examples/medmcqa": "medmcqa"}
    for source, target in packages.items():
        _copy(ROOT / source, place / "chip" / target)
    _copy(ROOT / "tests", place / "tests")
    for module in modules:
        file = place / "chip" / f"{module}.py"
        marked = _messages_left_out((ROOT / "chip" / f"{module}.py").read_text())
        if file.read_text() != marked:
            file.write_text(marked)
    settings = {
        "source_paths": ["chip"],
        "only_mutate": [f"chip/{module}.py" for module in modules],
        "pytest_add_cli_args_test_selection": [f"tests/{one}" for one in tests],
        # Collecting garbage before and after takes longer than most tests.
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "no:unraisableexception", "-p", "no:threadexception"],
        # A test of hypothesis does not run twice in one process, so none runs in the one that others come of.
        "process_isolation": "forkserver",
        "timeout_multiplier": 5.0,
        "timeout_constant": 10.0,
        "use_git_change_detection": False,
    }
    lines = ["[tool.mutmut]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    (place / "pyproject.toml").write_text("\n".join(lines) + "\n")


def _forget_survivors(place: Path) -> None:
    """Have all that was not killed tried again, and tests looked for anew: there may be others by now."""
    (place / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    for file in (place / "mutants" / "chip").rglob("*.meta"):
        kept = json.loads(file.read_text())
        kept["exit_code_by_key"] = {
            name: code if STATUS.get(code) == "killed" else None for name, code in kept["exit_code_by_key"].items()
        }
        file.write_text(json.dumps(kept, indent=4))


def found(place: Path, modules: list[str]) -> list[Mutant]:
    """What became of the mutants of a room, with the differences of those that live."""
    codes: dict[str, int | None] = {}
    for module in modules:
        codes |= json.loads((place / "mutants" / "chip" / f"{module}.py.meta").read_text())["exit_code_by_key"]
    statuses = {
        name: "not run" if code is None else STATUS.get(code, f"ended with {code}") for name, code in codes.items()
    }
    differences = _differences(
        place, [name for name, status in statuses.items() if status not in ("killed", "not run")]
    )
    return [Mutant(name, status, differences.get(name, "")) for name, status in statuses.items()]


def page() -> None:
    """Write the page from the results that are kept."""
    (RESULTS / "mutation.md").write_text(_page(json.loads(KEPT.read_text())))


def _keep(mutants: list[Mutant]) -> None:
    """Put what was found of some modules in the place of what was known of them."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for module in sorted({one.module for one in mutants}):
        own = [one for one in mutants if one.module == module]
        left = [{"status": one.status, "difference": one.difference} for one in own if one.status != "killed"]
        kept[module] = {"mutants": len(own), "killed": len(own) - len(left), "left": left}
    KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n")


def _reason(difference: str) -> str:
    """Why a mutant makes no difference that could be observed; empty where nobody has said so."""
    for one in PLAN["equivalent"]:
        if "pattern" in one:
            sides = {re.sub(one["pattern"], "", line[2:]) for line in difference.splitlines()}
            if len(sides) == 1:
                return str(one["reason"])
        elif difference in [each.strip() for each in one["differences"]]:
            return str(one["reason"])
    return ""


def _page(kept: Mapping[str, Any]) -> str:
    rows, explained, unexplained = [], [], []
    for module, one in kept.items():
        counts = Counter(left["status"] for left in one["left"])
        survived = [left["difference"] for left in one["left"] if left["status"] == "survived"]
        reasons = {difference: _reason(difference) for difference in survived}
        unclear = sum(not reasons[difference] for difference in survived)
        numbers = one["mutants"], one["killed"], counts["timed out"], len(survived) - unclear, unclear
        untested = len(one["left"]) - counts["timed out"] - len(survived)
        rows.append(f"| `{module}` | {' | '.join(map(str, (*numbers, untested)))} |")
        explained += [f"| `{module}` | {_cell(what)} | {reason} |" for what, reason in reasons.items() if reason]
        unexplained += [f"| `{module}` | {_cell(what)} |" for what, reason in reasons.items() if not reason]
    machine = f"{platform.machine()}, {os.cpu_count()} processors, one child, other work beside it"
    planned = [module for room in ROOMS.values() for module in room["modules"]]
    waiting = ", ".join(f"`{one}`" for one in planned if f"chip.{one.replace('/', '.')}" not in kept) or "none"
    values = {"waiting": waiting, "version": version("mutmut"), "python": platform.python_version(), "machine": machine}
    tables = {"rows": rows, "explained": explained, "unexplained": unexplained or ["| – | |"]}
    text: str = PLAN["page"].format(**values, **{name: "\n".join(lines) for name, lines in tables.items()})
    return text


def _cell(difference: str) -> str:
    """A difference in a cell of a table."""
    return "<br>".join(f"`{line}`" for line in difference.replace("|", "\\|").splitlines())


def _copy(source: Path, target: Path) -> None:
    """Copy what changed, so that what did not is not mutated again."""
    for file in source.rglob("*"):
        kept = target / file.relative_to(source)
        if file.is_dir() or "__pycache__" in file.parts:
            continue
        if not kept.exists() or (kept.read_bytes() != file.read_bytes() and file.suffix != ".py"):
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, kept)
        elif kept.read_text(errors="replace") != file.read_text(errors="replace"):
            shutil.copyfile(file, kept)


def _messages_left_out(source: str) -> str:
    """The source with mutmut told to leave `raise` statements as they are."""
    lines = source.splitlines()
    raised = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    for node in sorted(raised, key=lambda one: -one.lineno):
        assert node.end_lineno is not None
        indent = " " * node.col_offset
        lines.insert(node.end_lineno, f"{indent}# pragma: no mutate end")
        lines.insert(node.lineno - 1, f"{indent}# pragma: no mutate start")
    return "\n".join(lines) + "\n"


def _differences(place: Path, names: Sequence[str]) -> dict[str, str]:
    """The lines that mutants take away and put in their place, by name."""
    show = (
        "import json, sys; from mutmut.mutation.diff_apply import get_diff_for_mutant as show; "
        "print(json.dumps({name: show(name) for name in json.load(sys.stdin)}))"
    )
    command, given = [sys.executable, "-c", show], json.dumps(names)
    done = subprocess.run(command, cwd=place, input=given, capture_output=True, text=True, check=True)
    found = {}
    for name, shown in json.loads(done.stdout.splitlines()[-1]).items():
        changed = [line for line in shown.splitlines() if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")]
        found[name] = "\n".join(f"{line[0]} {line[1:].strip()}" for line in changed)
    return found


if __name__ == "__main__":
    app()
