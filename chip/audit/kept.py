"""An audit's progress: what each model has answered to each attack, so that an audit that was interrupted goes on.

It holds generated answers, so it has mode 0600, and goes once the report is written. Imports no torch.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chip.errors import ChipError
from chip.files import write_private

FORMAT = "chip-audit-progress-1"


class KeptAudit:
    """Parts of an audit by name, as JSON, in a file that is written anew after each; in memory alone where `path` is
    None. `identity` is a digest of what is audited and how."""

    def __init__(self, path: Path | None, identity: str, notice: Callable[[str], None]) -> None:
        """Raises ChipError where the file is damaged; of another audit, it is dropped with a notice."""
        self._path, self._identity = path, identity
        self._parts: dict[str, Any] = {} if path is None or not path.is_file() else self._read(path, notice)

    def get(self, part: str) -> Any:
        """What is kept of a part; None where nothing is."""
        return self._parts.get(part)

    def put(self, part: str, content: Any) -> None:
        """Keep a part."""
        self._parts[part] = content
        if self._path is not None:
            whole = {"format": FORMAT, "identity": self._identity, "parts": self._parts}
            write_private(self._path, json.dumps(whole, ensure_ascii=False).encode())

    def remove(self) -> None:
        """The audit is done: nothing needs to be kept."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path, notice: Callable[[str], None]) -> dict[str, Any]:
        try:
            content = json.loads(path.read_bytes())
            ours = content["format"] == FORMAT and content["identity"] == self._identity
            parts: dict[str, Any] = content["parts"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
            raise ChipError(f"{path} is damaged ({problem}); remove it to start afresh") from problem
        if not ours:
            notice(f"{path.name} holds the progress of another audit, which is dropped")
            return {}
        notice(f"the audit goes on where it was interrupted, with {len(parts)} answered parts from {path.name}")
        return parts
