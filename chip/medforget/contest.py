"""A contest: every method on every forget set, each outcome in a file of its own, so that nothing is done twice."""

import glob
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chip.errors import ChipError, UsageError
from chip.files import write_private
from chip.medforget.examination import Outcome
from chip.medforget.splits import ForgetSet, Splits
from chip.settings import METHODS

FORMAT = "chip-medforget-outcome-1"
BEFORE, RETRAINED = "before", "retrained"
"""Rows that no method makes: the model as it was, and one that never saw the forget set."""


RESERVED = frozenset(
    {"--data", "--forget", "--out", "--statistics", "--device", "--dtype", "--force", "--json", "--method"}
    | {"--in-place", "--link", "--dry-run", "--receipt", "--edit-out", "--plot", "--training-log", "--sign"}
    | {"--forgotten", "--forgotten-node", "--no-verify"}
)
"""Flags of `chip edit` that are the run's to give, or would leave nothing to measure."""


@dataclass(frozen=True)
class Method:
    """A method as `chip edit` knows it, with flags of its own, such as `chip --layers 0-3`."""

    name: str
    flags: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        return shlex.join((self.name, *self.flags))


@dataclass(frozen=True)
class Contest:
    """A forget set of a level, what it is held against, and in words how large it is."""

    level: str
    chosen: ForgetSet
    gold: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.level} {self.chosen.name}"


def read_methods(text: str) -> tuple[Method, ...]:
    """Methods from `oblique,chip --layers 0-3,npo`. Raises UsageError where one is not known, or stands there twice."""
    found = []
    for part in text.split(","):
        try:
            name, *flags = shlex.split(part)
        except ValueError as problem:
            raise UsageError(f"--methods {text!r}: {part.strip()!r} names no method; there are {_all()}") from problem
        if name not in METHODS:
            raise UsageError(f"--methods: {name!r} is no method; there are {_all()}")
        if flags and not flags[0].startswith("--"):
            raise UsageError(
                f"--methods: {part.strip()!r} must be a method, then flags of `chip edit`; a comma parts two"
            )
        if own := sorted(RESERVED & {flag.partition("=")[0] for flag in flags}):
            raise UsageError(
                f"--methods: {own[0]} is not a method's own; give it to `chip medforget run` or leave it out"
            )
        found.append(Method(name, tuple(flags)))
    if twice := [one.said for place, one in enumerate(found) if one in found[:place]]:
        raise UsageError(f"--methods: {twice[0]!r} stands there twice")
    return tuple(found)


def contests(splits: Splits, levels: Sequence[str], names: Sequence[str], gold: Path | None) -> tuple[Contest, ...]:
    """The contests at the levels given, or at all that have forget sets, with the sets of those names, or all of them.
    Raises UsageError where there is none of a name, or a single retrained model stands for several sets."""
    for level in levels:
        splits.chosen(level)
    there = dict.fromkeys(one.name for level in levels or splits.levels for one in splits.levels[level])
    if unknown := [name for name in names if name not in there]:
        raise UsageError(f"--set {unknown[0]!r}: no forget set is called so; there are {', '.join(there)}")
    chosen = [
        (level, one)
        for level, sets in splits.levels.items()
        for one in sets
        if (not levels or level in levels) and (not names or one.name in names)
    ]
    if not chosen:
        raise UsageError("the splits have no forget set; `chip medforget split DIR` writes some")
    if gold is None:
        return tuple(Contest(level, one) for level, one in chosen)
    if (gold / "config.json").is_file():
        if len(chosen) > 1:
            raise UsageError(
                f"--gold {gold} is one model for {len(chosen)} forget sets; give a folder with a model for each, "
                "called by its level, or name one --level and one --set"
            )
        return (Contest(*chosen[0], gold),)
    found = tuple(Contest(level, one, _gold(gold, level, one, splits)) for level, one in chosen)
    if not any(_gold(gold, level, one, splits) for level, sets in splits.levels.items() for one in sets):
        raise ChipError(f"--gold {gold} holds no model called by a level, such as {gold / chosen[0][0]}")
    return found


def _gold(folder: Path, level: str, one: ForgetSet, splits: Splits) -> Path | None:
    """The model retrained without a forget set: in a folder called by level and set, or by a level that has one set."""
    named = [folder / f"{level}-{one.name}", *([folder / level] if len(splits.levels[level]) == 1 else [])]
    return next((path for path in named if (path / "config.json").is_file()), None)


class Outcomes:
    """What came of each method on each forget set: a file a pair, beside the tables. `context` is a digest of what is
    measured and how, `command` of how a row's model was made; an outcome of another context or command does not
    count."""

    def __init__(self, folder: Path, notice: Callable[[str], None]) -> None:
        self._folder, self._notice = folder / "outcomes", notice

    def has(self, contest: Contest, row: str, context: str, command: str, limit: int = 0) -> bool:
        """Whether a row is known; False, with a notice, where only what was asked otherwise is, and where the method
        failed: what stood in its way may be gone. limit: seconds; one that reached a lower one is tried again."""
        path = self._path(contest, row)
        if not path.is_file():
            return False
        kept = _read(path)
        if (kept.context, kept.command) != (context, command):
            self._notice(f"{path.name} is of another model, other data or another command, and is measured again")
            return False
        stopped = kept.outcome.get("stopped_at", 0)
        if kept.outcome.get("problem") and not 0 < limit <= stopped:
            why = f"reached its limit of {stopped} s" if stopped else "failed"
            self._notice(f"{contest.name}, {row}: it {why} before and is tried again")
            return False
        return True

    def put(self, contest: Contest, row: str, context: str, command: str, outcome: Outcome) -> None:
        content = {
            "format": FORMAT,
            "level": contest.level,
            "set": contest.chosen.name,
            "row": row,
            "context": context,
            "command": command,
            "outcome": outcome,
        }
        write_private(self._path(contest, row), (json.dumps(content, indent=1) + "\n").encode())

    def rows(self, contest: Contest, context: str, commands: Mapping[str, str]) -> dict[str, Outcome]:
        """Everything that is known of a contest in a context: before, retrained, then the methods in chip's order.
        commands: of the rows that are asked for now, by which another command's outcome is left out."""
        paths = sorted(self._folder.glob(f"{glob.escape(slug(contest.name))}--*.json"))
        found = [
            kept
            for kept in map(_read, paths)
            if kept.context == context and kept.command == commands.get(kept.row, kept.command)
        ]
        order = (BEFORE, RETRAINED, *METHODS)
        found.sort(key=lambda kept: (order.index(kept.row.split()[0]), kept.row))
        return {kept.row: kept.outcome for kept in found}

    def _path(self, contest: Contest, row: str) -> Path:
        return self._folder / f"{slug(contest.name)}--{slug(row)}.json"


class _Kept(NamedTuple):
    row: str
    context: str
    command: str
    outcome: Outcome


def _read(path: Path) -> _Kept:
    try:
        content = json.loads(path.read_bytes())
        kept = _Kept(*(content[name] for name in _Kept._fields))
        if content["format"] != FORMAT or kept.row.split()[0] not in (BEFORE, RETRAINED, *METHODS):
            raise ValueError(content["format"])
        return kept._replace(outcome=dict(kept.outcome))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as problem:
        raise ChipError(f"{path} is damaged; remove it to have it measured again") from problem


def digest(content: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def slug(name: str) -> str:
    """A name as part of a file's name; names that differ in signs alone differ by their digest."""
    plain = "-".join(re.findall(r"\w+", name.lower()))
    return plain if plain == name.replace(" ", "-", 1) else f"{plain}-{digest(name)[:6]}"


def shared(items: Sequence[Any], rank: int, size: int) -> Iterator[Any]:
    """The items that are this process's, of several that share them."""
    yield from items[rank::size]


def _all() -> str:
    return ", ".join(METHODS)
