"""Mutation testing of `chip/solve` and `chip/edit`: is there a test that notices when the arithmetic is another?

    python benchmarks/mutation.py run [--room metric --room change] [--keep DIRECTORY]
    python benchmarks/mutation.py page

mutmut (https://mutmut.readthedocs.io) changes one operator, number, argument or condition at a time, and runs the tests
that reach the function. A room is a few modules with the tests that are theirs: those that run in process and in
seconds. Each is mutated in a copy that is laid out as a wheel is, so that what is imported is the mutated copy and
never the checkout. What an error says is not mutated: whether one is raised is. Nor are functions with decorators,
which mutmut passes over.

`run` keeps going where it was stopped, if DIRECTORY is kept, and tests again what changed. Survivors are listed with
their difference. `page` writes `benchmarks/results/mutation.md` from `mutation.json` and from what
`mutation_equivalent.json` says of those that no test could tell apart.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

HERE = Path(__file__).resolve().parent
ROOT, RESULTS = HERE.parent, HERE / "results"
ROOMS = tomllib.loads((HERE / "mutation.toml").read_text())
"""By name: `modules` of chip, `tests` by their ids, in files under tests/."""

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
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children)]
        done = subprocess.run(command, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        if done.returncode:
            raise SystemExit(f"mutmut ended with {done.returncode} in {place}")
        _keep(found(place, ROOMS[name]["modules"]))
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
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "no:xdist"],
        # A test of hypothesis does not run twice in one process, so none runs in the one that others come of.
        "process_isolation": "forkserver",
        "timeout_constant": 30.0,
        "use_git_change_detection": False,
    }
    lines = ["[tool.mutmut]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    (place / "pyproject.toml").write_text("\n".join(lines) + "\n")
    shutil.copytree(place / "tests", place / "mutants" / "tests", dirs_exist_ok=True)


def found(place: Path, modules: list[str]) -> list[Mutant]:
    """What became of the mutants of a room, with the differences of those that live."""
    mutants = []
    for module in modules:
        codes = json.loads((place / "mutants" / "chip" / f"{module}.py.meta").read_text())["exit_code_by_key"]
        for name, code in codes.items():
            status = "not run" if code is None else STATUS.get(code, f"ended with {code}")
            mutants.append(Mutant(name, status, "" if status == "killed" else _difference(place, name)))
    return mutants


@app.command()
def page() -> None:
    """Write the page from the results that are kept."""
    (RESULTS / "mutation.md").write_text(_page(json.loads((RESULTS / "mutation.json").read_text()), _explained()))


def _explained() -> dict[str, str]:
    """Why a mutant makes no difference that could be observed, by the difference that it is."""
    return {one["difference"]: one["reason"] for one in json.loads((RESULTS / "mutation_equivalent.json").read_text())}


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


def _difference(place: Path, name: str) -> str:
    """The lines that a mutant takes away and puts in their place."""
    command = [sys.executable, "-m", "mutmut", "show", name]
    shown = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True).stdout
    changed = [line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in changed)
