"""The skips that are expected, each with why; with CI set, a run with any other one fails.

A test that is skipped says nothing, and nobody reads that it says nothing: so each has to be asked for here. What is
expected and was run all the same is told, so that the list does not outlive its reasons.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Expected:
    """Tests of a file that may be skipped for a reason."""

    file: str
    reason: str
    """A regular expression that the whole of the reason fits."""
    why: str

    def covers(self, test: str, reason: str) -> bool:
        return test.split("::")[0].endswith(f"/{self.file}") and re.fullmatch(self.reason, reason) is not None


_DATA = "real data are credentialed or large, and no part of the repository"
EXPECTED = (
    Expected("test_benchmarks.py", ".* is not there", _DATA),
    Expected("test_medmcqa.py", ".* is not there", _DATA),
    Expected("test_real_data.py", ".* is not there", _DATA),
    Expected(
        "test_full_processors.py",
        "could not import 'torchvision'.*|num2words is not installed",
        "chip needs neither of them; stand-ins of the same processors are tested in test_families.py",
    ),
    Expected("test_families.py", "torchvision is installed", "a message that only its absence brings about"),
    Expected("test_models.py", "torchvision is installed", "a message that only its absence brings about"),
    Expected("test_families.py", "this family has a chat template", "one family alone is asked without"),
    Expected(
        "test_families.py",
        "this family shows several images without the tiles that it shows of one",
        "its images shown together are other inputs by design",
    ),
    Expected("test_kernels.py", "a model on a CPU runs only interpreted kernels", "true where there is a GPU"),
    Expected("test_edit.py", "no small file system can be mounted here", "mounting needs rights that few have"),
    Expected("test_page.py", "Chromium is not installed", "the page is looked at where there is a browser"),
)


class Skips:
    """A pytest plugin that gathers skips and holds them to a list."""

    def __init__(self, expected: tuple[Expected, ...] = EXPECTED, binding: bool = bool(os.environ.get("CI"))) -> None:
        """binding: whether a skip that is not expected fails the run."""
        self.expected, self.binding = expected, binding
        self.skipped: dict[tuple[str, str], bool] = {}
        """Every test that was skipped, and its reason; whether that was expected."""
        self.ran: set[str] = set()
        """Files with a test that ran, none of which was skipped."""
        self.used: set[Expected] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After each part of each test, here and in other processes."""
        self._see(report)
        if report.when == "call" and not report.skipped:
            self.ran.add(report.nodeid.split("::")[0])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """After a file was read, which may be skipped whole."""
        self._see(report)

    def _see(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = why.removeprefix("Skipped: ")
        covering = [one for one in self.expected if one.covers(f"/{report.nodeid}", reason)]
        self.skipped[report.nodeid, reason] = bool(covering)
        self.used.update(covering)

    @property
    def unexpected(self) -> list[tuple[str, str]]:
        return sorted(one for one, expected in self.skipped.items() if not expected)

    @property
    def outlived(self) -> list[Expected]:
        """What was expected of files that ran, and did not happen."""
        ran = {file.rpartition("/")[2] for file in self.ran}
        return [one for one in self.expected if one.file in ran and one not in self.used]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run, where nothing else did."""
        if self.binding and self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What to add to the list, and what to take from it."""
        if self.binding:
            for line in self._told():
                terminalreporter.write_line(line)

    def _told(self) -> Iterator[str]:
        for test, reason in self.unexpected:
            yield f"skipped, and not expected to be: {test}: {reason}; mend that, or list it in tests/skips.py with why"
        for one in self.outlived:
            yield f"note: no test of {one.file} was skipped for '{one.reason}', which tests/skips.py expects"
