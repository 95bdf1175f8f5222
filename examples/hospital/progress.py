"""Shows training as it goes: a bar on a terminal, a line now and then elsewhere. Everything goes to standard error."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

USUAL_EPOCHS = 25  # before the answers settle; the bar's length until the real number is known
LINES_EVERY = 10


class TrainingProgress:
    """A context manager; `show` is called after every epoch."""

    def __init__(self, visible: bool, settling_epochs: int) -> None:
        self._console = Console(stderr=True, quiet=not visible)
        self._settling_epochs = settling_epochs
        columns = (TextColumn("learning by heart"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._console, disable=not (visible and self._console.is_terminal))
        self._task = self._bar.add_task("", total=USUAL_EPOCHS + settling_epochs)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, epoch: int, loss: float, last: int | None) -> None:
        """`last` is the last epoch there will be; None while that is not known."""
        total = max(epoch, USUAL_EPOCHS) + self._settling_epochs if last is None else last
        text = f"epoch {epoch}, answer loss {loss:.3f}"
        self._bar.update(self._task, completed=epoch, total=total, description=text)
        if not self._console.is_terminal and (epoch % LINES_EVERY == 0 or epoch == total):
            self._console.print(f"learning by heart: {text}", highlight=False)
