"""Defaults from `chip.toml`: keys are flags by their long names, for every verb or, in a table, for one; a group's
verbs have tables in its own, such as `[medforget.build]`."""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from chip.errors import ChipError, UsageError
from chip.files import read_small

CONFIG = Path("chip.toml")
_PATHS = {
    "data",
    "lexicon",
    "out",
    "statistics",
    "receipt",
    "edit_out",
    "plot",
    "peft",
    "model",
    "sign",
    "out_dir",
    "requests",
    "forgotten",
    "export",
    "directory",
    "parquet",
    "splits",
    "gold",
    "nonmembers",
    "log",
}


_BY_HAND = {"allow_remote_judge"}
"""Flags that let records leave the machine: no file that lies in a directory gives them for whoever works there."""

Table = Mapping[str, Any]


def read_defaults(path: Path | None, context: typer.Context) -> dict[str, Any]:
    """Defaults by verb, those of a group's verbs within the group's. Paths in the file are relative to it.

    Raises ChipError for a key that no flag is called, and for what is no file; UsageError for a path that is no text.
    """
    if path is None and not os.path.lexists(CONFIG):
        return {}
    path = path or CONFIG
    try:
        content = tomllib.loads(read_small(path).decode())
    except (OSError, ValueError, RecursionError) as problem:
        raise ChipError(f"{path} cannot be read as TOML: {problem}") from problem
    return _of_group(path, context.command, (), content, {})


def _of_group(path: Path, group: Any, words: tuple[str, ...], content: Table, above: Table) -> dict[str, Any]:
    """The defaults of a group's verbs. words: what the group is called; above: keys that stand before its table."""
    verbs = _verbs(group)
    own = {key: value for key, value in content.items() if key not in verbs}
    _refuse_unknown(path, own, group, (*words, "VERB"))
    common = {**above, **_named(own, _flags(group))}
    found = {}
    for verb, command in verbs.items():
        table, called = content.get(verb, {}), (*words, verb)
        if not isinstance(table, dict):
            raise ChipError(f"{path}: [{'.'.join(called)}] must be a table")
        of_one = _of_group if _verbs(command) else _of_verb
        found[verb] = of_one(path, command, called, table, common)
    return found


def _of_verb(path: Path, command: Any, words: tuple[str, ...], content: Table, above: Table) -> dict[str, Any]:
    flags = _flags(command)
    _refuse_unknown(path, content, command, words)
    several = {str(one.name): getattr(one, "multiple", False) for one in command.params}
    return {
        name: _value(path, name, value, several=several[name])
        for name, value in {**above, **_named(content, flags)}.items()
        if name in several
    }


def _verbs(command: Any) -> Mapping[str, Any]:
    """The verbs of a group; a verb has none."""
    return getattr(command, "commands", {})


def _flags(command: Any) -> Mapping[str, str]:
    """The parameters of a verb, or of all verbs of a group, by their own and their flags' long names."""
    if verbs := _verbs(command):
        return {key: name for verb in verbs.values() for key, name in _flags(verb).items()}
    long = {_key(flag): one.name for one in command.params for flag in one.opts if flag.startswith("--")}
    return {**{one.name: one.name for one in command.params}, **long}


def _negated(command: Any) -> Mapping[str, str]:
    """By the key of a flag that switches something off, that of the one that switches it on."""
    if verbs := _verbs(command):
        return {key: on for verb in verbs.values() for key, on in _negated(verb).items()}
    pairs = ((off, on) for one in command.params for off, on in zip(one.secondary_opts, one.opts, strict=False))
    return {_key(off): _key(on) for off, on in pairs}


def _named(content: Table, flags: Mapping[str, str]) -> dict[str, Any]:
    """Values by the parameters that their keys mean."""
    return {flags[_key(key)]: value for key, value in content.items()}


def _key(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _value(path: Path, name: str, value: Any, *, several: bool) -> Any:
    if several:
        return [_value(path, name, one, several=False) for one in (value if isinstance(value, list) else [value])]
    if name not in _PATHS:
        return value
    if not isinstance(value, str):
        raise UsageError(f"{path}: {name.replace('_', '-')} is a path, in quotes; it is {value!r}")
    return str(path.parent / value)


def _refuse_unknown(path: Path, keys: Table, command: Any, words: tuple[str, ...]) -> None:
    known, negated = _flags(command), _negated(command)
    for key, value in keys.items():
        if _key(key) in _BY_HAND:
            raise ChipError(f"{path}: {key} is given on the command line only: it lets records leave this machine")
        if _key(key) in known:
            continue
        if on := negated.get(_key(key)):
            said = "false" if value is True else "true"
            raise ChipError(f"{path}: {key!r} only switches a flag off; write `{on.replace('_', '-')} = {said}`")
        if isinstance(value, dict) and (verbs := _verbs(command)):
            near = get_close_matches(key, verbs, n=1)
            meant = f"; did you mean [{'.'.join((*words[:-1], *near))}]?" if near else ""
            listed = " ".join(("chip", *words[:-1], "--help"))
            raise ChipError(f"{path}: no verb is called {key!r}, to have a table; `{listed}` lists them{meant}")
        raise ChipError(f"{path}: no flag is called {key!r}; `chip {' '.join(words)} --help` lists them")
