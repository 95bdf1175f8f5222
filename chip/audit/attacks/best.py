"""What came back of each record at the best of several tries."""

from collections.abc import Iterable, Mapping

from chip.hierarchy import Record
from chip.measure import Answer


def best_by_line(
    records: Iterable[Record], answers: Iterable[Answer], before: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Of each record, by its line, whether any of its tries brought its answer, 0 or 1; `before` is what earlier ones
    brought. A record and its variants share a line."""
    best = dict(before or {})
    for record, answer in zip(records, answers, strict=True):
        best[record.line] = max(best.get(record.line, 0.0), float(answer.exact))
    return best
