"""What the benchmark's verbs print: what was built, the forget sets, what is wrong with an export."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from chip.cli.console import Printer
from chip.medforget.layout import PAGE, PICTURE, VALUES

if TYPE_CHECKING:
    from chip.medforget.results import Results
    from chip.medforget.splits import Splits
    from chip.workflow.medforget.build import BuildResult


def show_built(printer: Printer, done: "BuildResult") -> None:
    """Records and nodes by level, tasks, forget sets, problems."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("nodes", "records"):
        table.add_column(heading, justify="right")
    for level, count in done.built.records.items():
        table.add_row(level, str(done.built.nodes[level]), str(count))
    table.add_row("together", "", str(sum(done.built.records.values())))
    printer.console.print(table)
    patients = ", ".join(f"{count} {what}" for what, count in done.built.manifest["patients"].items())
    printer.line(f"patients: {patients}")
    printer.line("tasks: " + ", ".join(f"{count} {task}" for task, count in done.built.tasks.items()))
    show_splits(printer, done.splits)
    if not done.splits.levels["patient"] and done.built.nodes["patient"]:
        printer.line("note: fewer institutions (--institutions) leave more patients beside each other")
    show_problems(printer, done.problems)
    printer.line(f"written: {done.out}")


def show_splits(printer: Printer, splits: "Splits") -> None:
    """The forget sets of each level, and nodes that can be none."""
    for level, sets in splits.levels.items():
        shown = "; ".join(f"{one.name} ({_few(['/'.join(node) for node in one.forget])})" for one in sets)
        printer.line(f"to forget at level {level}: {shown or 'nothing'}")
        for size in splits.unmet.get(level, ()):
            printer.line(f"note: level {level} has not {size} nodes that can be targets together")
        for node, why in list(splits.passed_over.get(level, {}).items())[:3]:
            printer.line(f"note: {'/'.join(node)} is passed over: {why}")
        if (count := len(splits.passed_over.get(level, {}))) > 3:
            printer.line(f"note: {count - 3} more of level {level} are passed over; splits.json names them")


def show_problems(printer: Printer, problems: Mapping[str, Mapping[str, object]]) -> None:
    """What was wrong, by kind, with the first ids."""
    for kind, one in problems.items():
        examples = one["examples"]
        assert isinstance(examples, list)
        more = " …" if one["count"] != len(examples) else ""
        printer.line(f"export: {one['count']} {kind}: {', '.join(examples)}{more}", style="yellow")


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def show_results(printer: Printer, results: "Results", out: Path) -> None:
    """A row a method, a column a level, and where the tables are."""
    from chip.medforget.results import short

    told = results.told
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("target / rephrased /\nsiblings / rest [loss]")
    for contest in told:
        table.add_column(Text(contest.name), justify="right")
    for name in dict.fromkeys(name for rows in told.values() for name in rows):
        table.add_row(Text(name), *(Text(short(rows.get(name))) for rows in told.values()))
    printer.console.print(table)
    pages = (PAGE, VALUES, PICTURE) if results.known else (PAGE, VALUES)
    printer.line(f"written: {', '.join(str(out / name) for name in pages)}")
