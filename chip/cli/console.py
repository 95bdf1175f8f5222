"""What the verbs print: plans, site reports, tables of before and after, progress. Nodes are printed as plain text."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from chip.plan import Plan
from chip.progress import Counted, Item
from chip.readable import one_line, readable

_GROUPS = ("target", "siblings", "rest")


class _Readable:
    """Something printed in which whatever would act on the terminal is seen instead; styles are rich's own."""

    def __init__(self, printed: RenderableType) -> None:
        self.printed = printed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.printed, options):
            yield Segment(text if control else readable(text), style, control)


class _OnlyReadable(RenderHook):
    """Names of nodes, files and tensors, and answers, come from others: none of them reaches the terminal as it is."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Readable(one) for one in renderables]


def _console(*, stderr: bool, quiet: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, quiet=quiet)
    console.push_render_hook(_OnlyReadable())
    return console


class Printer:
    """Prints for people on stdout; with `as_json`, one JSON object there and everything else on stderr."""

    def __init__(self, as_json: bool, *, quiet: bool = False) -> None:
        """quiet: say nothing, as all but the first of several processes do."""
        self.as_json, self.quiet = as_json and not quiet, quiet
        self.console = _console(stderr=as_json, quiet=quiet)
        self.errors = _console(stderr=True)

    def track(self, items: Counted[Item], doing: str) -> Iterable[Item]:
        """Pass the items through under a progress bar on stderr; a line for each task where that is no terminal."""
        if not self.errors.is_terminal:
            if not self.quiet:
                self.errors.print(Text(one_line(f"{doing} …")), soft_wrap=True)
            yield from items
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.errors, transient=True) as progress:
            yield from progress.track(items, total=len(items), description=one_line(doing))

    def line(self, text: str, style: str = "") -> None:
        """A line of text, taken literally."""
        self.console.print(Text(one_line(text), style=style), soft_wrap=True)

    def notice(self, text: str) -> None:
        """What was decided while working, on stderr."""
        self.errors.print(Text(one_line(f"note: {text}")), soft_wrap=True)

    def result(self, content: dict[str, Any]) -> None:
        """The JSON object that ends a verb under --json."""
        if self.as_json:
            json.dump(content, sys.stdout, indent=2, default=str)
            sys.stdout.write("\n")

    def plan(self, plan: Plan) -> None:
        """What an edit will touch."""
        rows = {
            "forget": ", ".join(plan.targets),
            "model": f"{plan.model} ({plan.family}, {plan.dtype} on {plan.device})",
            "records": ", ".join(f"{count} {group}" for group, count in plan.records.items()) + f" from {plan.data}",
            "method": _settings(plan),
            "sites": f"{_shortened(plan.sites)} ({plan.parameters:,} parameters)",
            "statistics": plan.statistics,
            "output": str(plan.out or "nothing is written (dry run)"),
            "receipt": str(plan.receipt or "none"),
        }
        if plan.collecting:
            rows["collecting"] = plan.collecting
        if plan.left_behind:
            rows["not carried"] = ", ".join(plan.left_behind)
        self.facts(rows)
        for notice in plan.notices:
            self.line(f"note: {notice}")
        for warning in plan.warnings:
            self.line(f"warning: {warning}", style="yellow")

    def facts(self, rows: Mapping[str, str]) -> None:
        """Names with what there is to say of each."""
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in rows.items():
            table.add_row(Text(name, style="bold"), Text(one_line(value), overflow="fold"))
        self.console.print(table)

    def asked(self, groups: Sequence[Any]) -> None:
        """Answer loss, and the share of answers that are the likeliest token by token, before and after."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("", no_wrap=True)
        for heading in ("records", "answer loss\nbefore", "\nafter", "likeliest\nbefore", "\nafter"):
            table.add_column(heading, justify="right", no_wrap=True)
        for one in groups:
            table.add_row(
                one.name,
                f"{one.count}" if one.count >= one.of else f"{one.count} of {one.of}",
                f"{one.loss_before:.2f}",
                f"{one.loss_after:.2f}",
                f"{one.likeliest_before:.2f}",
                f"{one.likeliest_after:.2f}",
            )
        self.console.print(table)

    def applying(self, planned: Any) -> None:
        """What an edit file will be written to."""
        transferred = sum(edit.transferred for edit in planned.edits)
        which = f"{transferred} of the edits " if len(planned.edits) > 1 else ""
        derived = f"; {which}derived anew for these weights" if transferred else ""
        tensors = {name for edit in planned.edits for name in edit.tensors}
        count = f"{len(planned.edits)} edits" if len(planned.edits) > 1 else "one edit"
        self.line(f"{planned.base.directory}: {count} of {len(tensors)} tensors{derived}")
        if planned.recovered:
            self.line(f"note: {planned.recovered}")
        if planned.left_behind:
            self.line(f"not carried: {', '.join(planned.left_behind)}")

    def applied(self, done: Any) -> None:
        """A checkpoint that edits were written to."""
        self.line(f"written: {done.out}  (receipt: {done.receipt})")
        self.proof(done.proof, done.copied)
        if done.rounding:
            self.notice(done.rounding)

    def proof(self, proof: Any, copied: str = "") -> None:
        """What was read back and found to be as it must be."""
        if proof is None:
            self.line("not verified: nothing was read back")
            return
        how = f" (copied: {copied})" if copied else ""
        kept = f"{proof.unchanged} tensors and {proof.files} other files unchanged"
        self.line(f"verified: {proof.edited} tensors as they were to be, {kept}{how}")

    def sites(self, sites: Sequence[Any]) -> None:
        """Rank and size of the change at each site."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("site", overflow="fold")
        for heading in ("rank", "relative\nchange", "predicted\ndistortion"):
            table.add_column(heading, justify="right", no_wrap=True)
        for one in (one for one in sites if one.rank):
            distortion = "" if one.distortion is None else f"{one.distortion:.1e}"
            table.add_row(one.site, str(one.rank), f"{one.relative_change:.1e}", distortion)
        self.console.print(table)

    def left_alone(self, sites: Sequence[Any]) -> None:
        """The sites that an edit found nothing to remove from, with the reason."""
        for one in (one for one in sites if not one.rank):
            self.line(f"note: {one.site} is left alone: {one.reason}")

    def scores(self, rows: Sequence[Any]) -> None:
        """Exact match and answer loss by group, before and after."""
        from chip.workflow.table import scores

        self.console.print(scores(rows))

    def trials(self, tuning: Any, *, everything: bool) -> None:
        """The settings that were tried, those that no other one beats or all of them; the chosen one bears a mark."""
        shown = tuning.trials if everything else tuning.front
        differing = [
            name for name in tuning.searched if len({getattr(one.settings, name) for one in tuning.trials}) > 1
        ]
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("", no_wrap=True)
        for heading in (
            *(name.replace("_", "\n") for name in differing),
            "target\nmatch",
            "retain\ndrop",
            "target\nloss",
        ):
            table.add_column(heading, justify="right", no_wrap=True)
        for one in shown:
            described = one.settings.described()
            values = (described.get(name, "default") for name in differing)
            outcome = one.outcome
            table.add_row(
                "→" if one is tuning.trials[tuning.chosen] else "",
                *(f"{value:g}" if isinstance(value, float) else value for value in values),
                f"{outcome.target_match:.2f}",
                f"{outcome.retain_drop:.3f}",
                f"{outcome.target_loss:.2f}",
            )
        which = "all" if everything else "those that no other beats"
        self.line(f"{len(tuning.trials)} edits tried; on the half they were tuned on, {which}:")
        self.console.print(table)

    def outcome(self, outcome: Any) -> None:
        """One request of a batch, as it ends."""
        asked = ", ".join(outcome.forget) if outcome.line else "all of them together"
        what = f": {outcome.reason}" if outcome.reason else f", {outcome.seconds:.1f} s"
        self.errors.print(Text(one_line(f"{outcome.name} ({asked}): {outcome.state}{what}")), soft_wrap=True)

    def outcomes(self, outcomes: Sequence[Any]) -> None:
        """Every request of a batch: whom it was about, exact match before and after by group, and how it ended."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("request", no_wrap=True)
        table.add_column("forget", overflow="fold")
        for heading in (*_GROUPS, "seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", overflow="fold")
        for one in outcomes:
            forget = ", ".join(one.forget) if one.line else f"all {len(one.forget)} together"
            matches = (one.match(group) for group in _GROUPS)
            missed = ", goals missed" if one.goals_met is False else ""
            table.add_row(
                Text(one.name),
                Text(forget),
                *("" if match is None else f"{match[0]:.2f} → {match[1]:.2f}" for match in matches),
                f"{one.seconds:.1f}" if one.receipt else "",
                Text(f"{one.state}{missed}", style="yellow" if missed or one.state == "failed" else ""),
            )
        self.console.print(table)
        for one in outcomes:
            if one.reason:
                self.line(f"{one.name} failed: {one.reason}", style="yellow")

    def verdict(self, verdict: Any) -> None:
        """Whether the goals were met, and on what."""
        outcome, goals = verdict.outcome, verdict.goals
        where = "on the half that nothing was chosen on" if verdict.halved else "on all that was asked"
        self.line(
            f"goals {'met' if verdict.met else 'missed'} {where}: "
            f"target match {outcome.target_match:.3f} (at most {goals.max_target_match:g}), "
            f"retain drop {outcome.retain_drop:.3f} (at most {goals.max_retain_drop:g})",
            style="" if verdict.met else "yellow",
        )


def _shortened(names: Sequence[str]) -> str:
    if len(names) <= 2:
        return ", ".join(names)
    return f"{len(names)}, {names[0]} to {names[-1]}"


def _settings(plan: Plan) -> str:
    others = (f"{key.replace('_', ' ')} {value}" for key, value in plan.settings.items() if key != "method")
    return ", ".join((plan.method, *others))
