"""The table of before and after that ends an edit or an audit, for a terminal of any width."""

from collections.abc import Sequence

from rich.table import Table

from chip.workflow.asking import Row

_PARTS = {"": "", "tuning": " (tuned on)", "judging": " (judged)"}


def scores(rows: Sequence[Row]) -> Table:
    """Exact match and answer loss by group, before and after."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("records", "exact\nbefore", "match\nafter", "answer\nbefore", "loss\nafter"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        asked = f"{row.before.count}" if row.before.count >= row.of else f"{row.before.count} of {row.of}"
        table.add_row(
            row.group + _PARTS[row.part],
            asked,
            f"{row.before.exact_match:.2f}",
            f"{row.after.exact_match:.2f}",
            f"{row.before.loss:.2f}",
            f"{row.after.loss:.2f}",
        )
    return table
