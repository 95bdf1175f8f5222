"""Auditing from Python: `chip.Audit`, what was forgotten, what was kept and what an attacker gets back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self, Unpack

import jsonschema

from chip.api.given import AnyModel, AnyRecords, checked_options, given_model, given_records
from chip.api.options import AuditOptions
from chip.audit.report import schema
from chip.errors import ChipError, UsageError
from chip.workflow.audit import REPORT, AuditRequest, carry_out_audit, refuse_report, write_report


@dataclass(frozen=True)
class Audit:
    """The report of an audit. `report`: its content by docs/report.schema.json; it names nodes, and is as private as
    the records."""

    report: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(
        cls,
        base: AnyModel,
        edited: AnyModel,
        data: AnyRecords,
        forget: Sequence[str],
        *,
        processor: Any = None,
        levels: Sequence[str] | None = None,
        **options: Unpack[AuditOptions],
    ) -> Self:
        """Ask both models and attack them, as `chip audit` does; nothing is written.

        base, edited: before the edit and after it, each a directory or a loaded model (with `processor`, which both
        share; each is saved to a temporary directory and loaded from there when it is its turn). data, levels: as in
        `chip.edit`. Raises ChipError for bad input.
        """
        if isinstance(forget, str):
            raise UsageError(f"forget is a list of nodes: give [{forget!r}]")
        with (
            given_model(base, processor) as before,
            given_model(edited, processor) as after,
            given_records(data, levels) as records,
        ):
            models = (before.directory, after.directory)
            request = AuditRequest(*models, records.directory, tuple(forget), **checked_options(options, AuditOptions))
            report = carry_out_audit(request, records=records.hierarchy).report
        for role, given in (("base", before), ("edited", after)):
            if given.loaded is not None:  # the directory that it was audited from is gone
                report["request"]["models"][role]["directory"] = "a model in memory"
        return cls(report)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a report: its directory, or report.json itself. Raises ChipError where it is none."""
        file = Path(path) / REPORT if Path(path).is_dir() else Path(path)
        try:
            report = json.loads(file.read_bytes())
            jsonschema.validate(report, schema())
        except (OSError, ValueError, RecursionError, jsonschema.ValidationError) as problem:
            reason = problem.message if isinstance(problem, jsonschema.ValidationError) else problem
            raise ChipError(f"{fspath(file)} is no report that chip wrote, or it is damaged ({reason})") from problem
        return cls(report)

    @property
    def verdicts(self) -> dict[str, str]:
        """By attack, its worst verdict: `pass`, `watch`, `fail` or `not tried`."""
        return {attack["name"]: attack["verdict"] for attack in self.report["attacks"]}

    @property
    def summary(self) -> tuple[str, str, str]:
        """Is it gone, what did it cost, what could bring it back: a sentence each."""
        found = self.report["summary"]
        return found["gone"], found["cost"], found["back"]

    def __str__(self) -> str:
        return "\n".join((*self.summary, *(f"{name}: {verdict}" for name, verdict in self.verdicts.items())))

    def save(self, directory: str | PathLike[str], *, force: bool = False) -> None:
        """Write report.html, which opens offline, and report.json, both mode 0600. Raises ChipError where a report is
        there and `force` is not given."""
        refuse_report(Path(directory), force=force)
        write_report(Path(directory), dict(self.report))
