"""What `chip edit` is asked, and what it answers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from chip.edit import Edit
from chip.edit.proof import Proof
from chip.settings import CollectSettings, EditSettings, TuningSettings
from chip.solve.problem import SiteReport
from chip.workflow.asking import Row
from chip.workflow.tune import Tuning, Verdict

ALL_SETTINGS = frozenset(one.name for one in fields(EditSettings))


@dataclass(frozen=True)
class EditRequest:
    """Everything that `chip edit` was asked; docs/command-line.md describes each.

    fixed: names of the settings that the user gave, which a search never changes; all of them unless said otherwise.
    """

    model: str
    data: Path
    forget: tuple[str, ...]
    settings: EditSettings = field(default_factory=EditSettings)
    out: Path | None = None
    statistics: Path | None = None
    receipt: Path | None = None
    edit_out: Path | None = None
    plot: Path | None = None
    training_log: Path | None = None
    keep_last_good: bool = False
    forgotten: tuple[Path, ...] = ()
    forgotten_nodes: tuple[str, ...] = ()
    collecting: CollectSettings = field(default_factory=CollectSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    fixed: frozenset[str] = ALL_SETTINGS
    device: str = "auto"
    dtype: str = "auto"
    verify: bool = True
    verify_records: int = 200
    dry_run: bool = False
    force: bool = False
    link: bool = False
    in_place: bool = False
    sign: Path | None = None

    @property
    def searches(self) -> bool:
        """Whether other settings may be tried: never without a verification, which tells what is better; and with
        differential privacy only where that was asked for, since every trial spends as much again."""
        return self.verify and (self.tuning.tune or (self.tuning.tune is None and not self.settings.private))


@dataclass(frozen=True)
class EditResult:
    """What an edit came to: the report of each site, the table (empty without verification), what was written, what
    choosing the strength came to (None where it was not to be chosen), and whether the goals were met (None where
    nothing was asked), what was proved of the checkpoint that was written, how the training went where there was one,
    and the change itself (None of a link of a chain, which is kept in its file alone)."""

    sites: tuple[SiteReport, ...]
    rows: tuple[Row, ...] = ()
    out: Path | None = None
    receipt: Path | None = None
    edit: Path | None = None
    tuning: Tuning | None = None
    verdict: Verdict | None = None
    proof: Proof | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    change: Edit | None = None

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        paths = {"out": self.out, "receipt": self.receipt, "edit": self.edit}
        return {
            "sites": [asdict(site) for site in self.sites],
            "rows": [asdict(row) for row in self.rows],
            **{name: None if path is None else str(path) for name, path in paths.items()},
            "tuning": None if self.tuning is None else self.tuning.as_json(),
            "verdict": None if self.verdict is None else self.verdict.as_json(),
            "proof": None if self.proof is None else asdict(self.proof),
            "training": dict(self.training) or None,
        }
