"""What `chip audit` prints: the answer in three sentences, the groups, the verdicts, and published metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from chip.audit.wording import METRICS, NONMEMBERS, ROLES
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
        for remark in _remarks(report):
            printer.console.print(Text(remark, style="dim"))
    printer.line("")
    printer.console.print(_metrics(report["published"]["edited"]))
    for limit in report["limits"]:
        printer.console.print(Text(f"note: {limit}"))
    if found.out is not None:
        printer.line(f"written: {found.out / PAGE}")


def _verdicts(report: Mapping[str, Any]) -> Table:
    """A row a finding: its value under each model, and what the reader has to know of those that have none."""
    roles = [role for role in ROLES if role in report["request"]["models"]]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("attack", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for role in roles:
        table.add_column(ROLES[role], justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for attack in report["attacks"]:
        for place, one in enumerate(attack["findings"]):
            values = [_shown(one["models"].get(role, {}).get("value")) for role in roles]
            verdict = Text(one["verdict"], style=_STYLES[one["verdict"]])
            table.add_row(attack["name"] if not place else "", Text(one["name"]), *values, verdict)
    return table


def _remarks(report: Mapping[str, Any]) -> Iterator[str]:
    """Why something was not tried, and what stands behind a verdict that compares with nothing."""
    for attack in report["attacks"]:
        for one in attack["findings"]:
            if one["verdict"] == "not tried" or (one["scale"] in ("caution", "release") and one["verdict"] != "pass"):
                yield f"{attack['name']}, {one['name']}: {one['reason']}"


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
