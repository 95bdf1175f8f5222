"""Ledgers: which checkpoint has forgotten what, so that nobody who was forgotten ever counts as retained again.

A ledger names nodes only by their hashes under the owner's salt, as receipts do, and a receipt of one edit serves as a
ledger of one entry. The nodes of a data set are found again by hashing every one of them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chip.edit.receipt import hashed_nodes, read_receipt
from chip.errors import ChipError
from chip.files import read_small, write_private
from chip.hierarchy import NodePath, outermost

FORMAT = "chip-ledger-1"
_FORGETTING = ("edit", "apply")
"""What receipts are of; to take an edit back is to forget nothing."""


@dataclass(frozen=True)
class Entry:
    """`checkpoint`, a model's digest, came of `base` by forgetting `nodes`, each a hash."""

    base: str
    checkpoint: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """Entries, and whose salt they are hashed with; an empty `owner`, as of receipts, says nothing of it."""

    entries: tuple[Entry, ...] = ()
    owner: str = ""

    def forgotten(self, checkpoint: str) -> frozenset[str]:
        """The hashes of all that a checkpoint has forgotten, along the edits that it came of.

        Raises ChipError where the ledger does not know the checkpoint: it would say that nothing was forgotten.
        """
        found: set[str] = set()
        known, waiting = set[str](), [checkpoint]
        while waiting:
            digest = waiting.pop()
            if digest in known:
                continue
            known.add(digest)
            for entry in self.entries:
                if entry.checkpoint == digest:
                    found |= set(entry.nodes)
                    waiting.append(entry.base)
        if not found:
            raise ChipError(
                "the ledger knows nothing of this model, only of others; give the ledger or the receipt of the edit "
                "that it came of, or name what it has forgotten with --forgotten-node"
            )
        return frozenset(found)

    def with_entry(self, entry: Entry) -> "Ledger":
        """The same with one entry more, which takes the place of those of the same checkpoint."""
        others = tuple(one for one in self.entries if one.checkpoint != entry.checkpoint)
        return Ledger((*others, entry), self.owner)


def owner_of(salt: bytes) -> str:
    """What tells one salt from another without giving it away: the hash of no node at all."""
    return hashed_nodes([()], salt)[0]


def nodes_among(nodes: Iterable[NodePath], hashes: Iterable[str], salt: bytes) -> tuple[NodePath, ...]:
    """Those of the nodes whose hashes are given; of nodes within one another the outermost."""
    wanted, ordered = frozenset(hashes), sorted(nodes)
    return outermost(node for node, one in zip(ordered, hashed_nodes(ordered, salt), strict=True) if one in wanted)


def read_ledgers(paths: Sequence[Path], salt: bytes) -> Ledger:
    """Ledgers and receipts as one ledger. Raises ChipError where one is neither, or was hashed with another salt."""
    ledgers = [_read(path) for path in paths]
    for path, ledger in zip(paths, ledgers, strict=True):
        if ledger.owner and ledger.owner != owner_of(salt):
            raise ChipError(f"{path} was written with another salt than yours; set CHIP_SALT_FILE to its owner's")
    return Ledger(tuple(entry for ledger in ledgers for entry in ledger.entries), owner_of(salt))


def write_ledger(ledger: Ledger, path: Path) -> None:
    """Write a ledger, mode 0600."""
    content = {"format": FORMAT, "owner": ledger.owner, "entries": [asdict(entry) for entry in ledger.entries]}
    write_private(path, (json.dumps(content, indent=2) + "\n").encode())


def entry_of(receipt: Mapping[str, Any]) -> Entry | None:
    """What a receipt says as a ledger does; None where it is of no checkpoint that has forgotten anything by it."""
    proof = receipt["proof"]
    if proof is None or receipt["action"] not in _FORGETTING:
        return None
    nodes = [node for edit in receipt["edits"] for node in edit["nodes"]]
    return _entry(proof["edited_digest"], proof["base_digest"], [*nodes, *receipt.get("forgotten", ())])


def _read(path: Path) -> Ledger:
    try:
        content = json.loads(read_small(path))
        if content["format"] != FORMAT:
            entry = entry_of(read_receipt(path))
            return Ledger(() if entry is None else (entry,))
        entries = tuple(_entry(one["checkpoint"], one["base"], one["nodes"]) for one in content["entries"])
        return Ledger(entries, str(content["owner"]))
    except (ChipError, OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise ChipError(f"{path} is neither a ledger nor a receipt that chip wrote ({problem})") from problem


def _entry(checkpoint: object, base: object, nodes: Sequence[object]) -> Entry:
    if not all(isinstance(one, str) for one in (checkpoint, base, *nodes)):
        raise ValueError("an entry is no text")
    return Entry(str(base), str(checkpoint), tuple(map(str, nodes)))
