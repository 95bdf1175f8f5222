"""Writes docs/reference/command-line.md from the command line itself: every verb, argument and option.

python docs/tools/reference.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer

from chip.cli.app import app

PAGE = Path(__file__).parents[1] / "reference" / "command-line.md"
_LEAD = """\
# Every verb and flag

Written from the code by `python docs/tools/reference.py`; a test holds the two together.
[The command line](../command-line.md) says how the verbs belong together and what `--help` has no room for. Every
option has a key in [`chip.toml`](../command-line.md#defaults), at the top or in the table of its verb, and most have a
name in the environment. A flag wins over the environment, which wins over `chip.toml`. No default: nothing, or what the
text says.
"""
_KINDS = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}


def reference() -> str:
    """The page, ending in a line break."""
    root = typer.main.get_command(app)
    verbs = list(_verbs(root, "chip"))
    overview = [f"- [`{words}`](#{words.replace(' ', '-')}): {_summary(verb)}" for words, verb in verbs]
    before = ["## Before the verb", "", "    chip [OPTIONS] VERB …", "", *_options(root, "chip")]
    sections = [line for words, verb in verbs for line in ("", *_section(words, verb))]
    return "\n".join([_LEAD, *overview, "", *before, *sections]) + "\n"


def _verbs(group: Any, words: str) -> Iterator[tuple[str, Any]]:
    """Every verb with the words that call it, those of a group at its place."""
    for name, command in group.commands.items():
        called = f"{words} {name}"
        if getattr(command, "commands", None):
            yield from _verbs(command, called)
        else:
            yield called, command


def _section(words: str, verb: Any) -> list[str]:
    said = [line for paragraph in _paragraphs(verb) for line in (_text(paragraph), "")]
    return [f"## {words}", "", *said, f"    {_synopsis(words, verb)}", "", *_arguments(verb), *_options(verb, words)]


def _synopsis(words: str, verb: Any) -> str:
    """What has to be given, in its order, and that more may be."""
    needed = [f"{_long(one)} {_metavar(one)}" for one in _of(verb, "option") if one.required]
    return " ".join([words, *(_metavar(one) for one in _of(verb, "argument")), *needed, "[OPTIONS]"])


def _arguments(verb: Any) -> list[str]:
    rows = [f"| `{_metavar(one)}` | {_text(one.help)} |" for one in _of(verb, "argument")]
    return ["| argument | |", "| --- | --- |", *rows, ""] if rows else []


def _options(verb: Any, words: str) -> list[str]:
    rows = [_option(one, of_verb=words != "chip") for one in _of(verb, "option") if one.name != "help"]
    return ["| option | default | environment | `chip.toml` | |", "| --- | --- | --- | --- | --- |", *rows]


def _option(one: Any, *, of_verb: bool) -> str:
    value = "" if one.is_flag else f" {_metavar(one)}"
    names = " / ".join(f"`{name}{value}`" for name in (*one.opts, *one.secondary_opts))
    variable = f"`{one.envvar}`" if one.envvar else ""
    key = f"`{_long(one).removeprefix('--')}`" if of_verb else ""
    return f"| {names} | {_default(one)} | {variable} | {key} | {_text(one.help)} |"


def _default(one: Any) -> str:
    if one.required:
        return "needed"
    if one.default is None or one.default in ((), []):
        return ""
    if one.is_flag:
        return ("on" if one.default else "off") if isinstance(one.default, bool) else ""
    return f"`{one.default}`"


def _of(verb: Any, kind: str) -> list[Any]:
    return [one for one in verb.params if one.param_type_name == kind and not one.hidden]


def _metavar(one: Any) -> str:
    """What stands for the value: the parameter's own word, or its kind's."""
    if one.param_type_name == "argument":
        name = one.metavar or str(one.name).upper()
        return name if one.metavar or one.nargs == 1 else f"{name}…"
    return one.metavar or _KINDS[_kind(one)]


def _kind(one: Any) -> type:
    """The type of one value of a parameter."""
    declared = one.type_descriptor.annotation
    return next(iter(get_args(declared)), declared)


def _long(one: Any) -> str:
    return next(name for name in one.opts if name.startswith("--"))


def _summary(verb: Any) -> str:
    return _text(_paragraphs(verb)[0])


def _paragraphs(verb: Any) -> list[str]:
    return str(verb.help).split("\n\n")


def _text(help: str | None) -> str:
    """Help as a line of Markdown: what would part a table's cells or make a tag stands for itself."""
    return re.sub(r"([|<>*])", r"\\\1", " ".join((help or "").split()))


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
