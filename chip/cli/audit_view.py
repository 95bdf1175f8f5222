"""What `chip audit` prints: the answer in three sentences, the groups, the verdicts, and published metrics."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from chip.audit.wording import METRICS, NONMEMBERS
from chip.cli.console import Printer
from chip.workflow.audit import PAGE, AuditResult

_STYLES = {"pass": "green", "watch": "yellow", "fail": "red", "not tried": "dim"}


def show_audit(printer: Printer, found: AuditResult) -> None:
    """Print an audit for people."""
    report = found.report
    for question in ("gone", "cost", "back"):
        printer.console.print(Text(report["summary"][question]))
    printer.line("")
    printer.scores(found.rows)
    if report["attacks"]:
        printer.line("")
        printer.console.print(_verdicts(report))
    printer.line("")
    printer.console.print(_metrics(report["published"]["edited"]))
    for limit in report["limits"]:
        printer.console.print(Text(f"note: {limit}"))
    if found.out is not None:
        printer.line(f"written: {found.out / PAGE}")


def _verdicts(report: Mapping[str, Any]) -> Table:
    """A row a finding."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("attack", no_wrap=True)
    table.add_column("finding", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("", style="dim", overflow="fold")
    for attack in report["attacks"]:
        for one in attack["findings"]:
            verdict = Text(one["verdict"], style=_STYLES[one["verdict"]])
            table.add_row(attack["name"], Text(one["name"]), verdict, Text(one["reason"]))
    return table


def _metrics(metrics: Mapping[str, Any]) -> Table:
    """DuoLearn's metrics, a row each; of one that is not measured, why instead of its meaning."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for field, (name, meaning) in METRICS.items():
        measured = metrics[field]
        others = NONMEMBERS[metrics["nonmembers"]]
        said = f"not measured: {measured['why']}" if measured["why"] else meaning.format(others)
        table.add_row(name, _shown(measured["before"]), _shown(measured["after"]), Text(said))
    return table


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
