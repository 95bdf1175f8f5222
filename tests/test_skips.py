"""A skip that nobody asked for fails a run, wherever it comes from; one that was asked for does not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_runs():
    pass

def test_is_skipped():
    pytest.skip("it is Sunday")

@pytest.mark.skipif(True, reason="it rains")
def test_is_never_run():
    pass

@pytest.mark.xfail(reason="nobody can")
def test_fails_as_it_should():
    assert False
"""
FILE = "import pytest\npytest.importorskip('no_such_module_as_this')\n"
LISTED = "Expected('test_some.py', 'it is S.*', ''), Expected('test_some.py', 'it rains', '')"
ABSENT = """Expected("test_other.py", "could not import 'no_such.*", "")"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_other.py").write_text(FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run(project: Path, expected: str = "", *more: str, binding: bool = True) -> tuple[int, list[str]]:
    """The exit code, and the lines that tell of skips."""
    plugin = f"config.pluginmanager.register(Skips(({expected}), {binding}))"
    (project / "conftest.py").write_text(
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nfrom skips import Expected, Skips\n"
        f"def pytest_configure(config):\n    if not hasattr(config, 'workerinput'):\n        {plugin}\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(project), *more]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins take longer to load than these tests to run
    ran = subprocess.run(command, capture_output=True, text=True, cwd=project, env=alone, check=False)
    return ran.returncode, re.findall(r"^(?:skipped, and|note: no test).*", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize("processes", [(), ("-p", "xdist", "--numprocesses", "1")])
def test_a_skip_that_is_not_listed_fails_the_run(project: Path, processes: tuple[str, ...]) -> None:
    code, told = run(project, "", *processes)
    assert code == 1
    assert [line.split("; mend")[0].split("be: ")[1].split(":")[0] for line in told] == ["test_other.py"] + 2 * [
        "test_some.py"
    ]
    assert "it is Sunday" in told[2]


def test_skips_that_are_listed_pass(project: Path) -> None:
    assert run(project, f"{LISTED}, {ABSENT}") == (0, [])


def test_one_reason_does_not_cover_another(project: Path) -> None:
    code, told = run(project, f"Expected('test_some.py', 'it is S.*', ''), {ABSENT}")
    assert code == 1
    assert len(told) == 1
    assert "it rains" in told[0]


def test_what_is_listed_and_not_skipped_is_told_and_passes(project: Path) -> None:
    code, told = run(project, f"{LISTED}, {ABSENT}, Expected('test_some.py', 'it snows', '')")
    assert code == 0
    assert told == ["note: no test of test_some.py was skipped for 'it snows', which tests/skips.py expects"]


def test_outside_of_ci_skips_are_nobodys_business(project: Path) -> None:
    assert run(project, binding=False) == (0, [])
