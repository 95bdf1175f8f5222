"""What became of a request in a batch, for the table, and the summary that is kept of all of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chip.edit import Edit, load_edit
from chip.edit.ledger import Entry, entry_of
from chip.edit.receipt import read_receipt
from chip.errors import ChipError
from chip.files import write_private
from chip.models.checkpoint import Checkpoint
from chip.version import VERSION

FORMAT = "chip-summary-1"
State = Literal["done", "done before", "failed"]


@dataclass(frozen=True)
class Outcome:
    """One request, or all of them together. `forget` are its targets as they were typed; `receipt` is what its receipt
    says, empty where it failed; `reason` says why it failed. The last three name nodes, so they are shown and not kept.
    """

    name: str
    line: int
    state: State
    forget: tuple[str, ...]
    receipt: Mapping[str, Any]
    reason: str = ""

    @property
    def entry(self) -> Entry | None:
        """What the ledger says of it; None where no checkpoint of its own was written."""
        return entry_of(self.receipt) if self.receipt else None

    @property
    def seconds(self) -> float:
        return float(self.receipt.get("seconds", 0.0))

    @property
    def goals_met(self) -> bool | None:
        """Whether the goals were met; None where nothing was asked."""
        verdict = self.receipt.get("verdict")
        return None if verdict is None else bool(verdict["met"])

    def match(self, group: str) -> tuple[float, float] | None:
        """Exact match of a group before and after, of all that was asked of it; None where nothing was."""
        rows = [row for row in self.receipt.get("verification", ()) if row["group"] == group]
        count = sum(row["before"]["count"] for row in rows)
        if not count:
            return None
        before, after = (
            sum(row[side]["exact_match"] * row[side]["count"] for row in rows) / count for side in ("before", "after")
        )
        return before, after

    def as_json(self) -> dict[str, Any]:
        """The outcome as plain values that name no node."""
        edits, entry = self.receipt.get("edits", ()), self.entry
        return {
            "name": self.name,
            "line": self.line,
            "state": self.state,
            "goals_met": self.goals_met,
            "seconds": self.seconds,
            "nodes": [node for edit in edits for node in edit["nodes"]],
            "edits": [edit["identity"] for edit in edits],
            "base_digest": None if entry is None else entry.base,
            "edited_digest": None if entry is None else entry.checkpoint,
            "verification": self.receipt.get("verification", ()),
        }


def write_summary(path: Path, model: str, outcomes: Sequence[Outcome], together: Outcome | None) -> None:
    """Write the summary, mode 0600; `model` is the digest of the unedited one."""
    content = {
        "format": FORMAT,
        "chip": VERSION,
        "model": model,
        "requests": [one.as_json() for one in outcomes],
        "together": None if together is None else together.as_json(),
    }
    write_private(path, (json.dumps(content, indent=2) + "\n").encode())


def found_receipt(path: Path) -> dict[str, Any]:
    """What a receipt says; nothing where there is none, or none that chip wrote."""
    try:
        return read_receipt(path) if path.is_file() else {}
    except ChipError:
        return {}


def finished_edit(receipt: Mapping[str, Any], request: str, kept: Path) -> Edit | None:
    """The edit that a finished request has left, or None: its receipt is of the same request (a digest), and the file
    holds the edit that the receipt is of."""
    if receipt.get("request") != request or not kept.is_file():
        return None
    try:
        edit = load_edit(kept)
    except ChipError:
        return None
    return edit if [edit.identity] == [one["identity"] for one in receipt["edits"]] and edit.edited else None


def holds(directory: Path, digests: Mapping[str, str]) -> bool:
    """Whether a checkpoint is there whose tensors have these digests."""
    if not directory.is_dir():
        return False
    try:
        found = Checkpoint(directory)
        return all(name in found.tensors and found.matrix(name).digest() == one for name, one in digests.items())
    except ChipError:
        return False
