"""The page that a privacy officer reads and files: report.html, drawn from the plain values of report.json alone.

One file that asks for nothing else: styles and pictures stand in it, its policy forbids everything further, and no
script runs. Every name in it may come from whoever made the data or the models, so all are escaped.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from chip.audit.figures import figures_of
from chip.audit.report import serialised
from chip.audit.wording import MEASURES, METRICS, NONMEMBERS, ROLES, SCALES
from chip.readable import readable

if TYPE_CHECKING:
    from jinja2 import Environment

ANSWERS = {"yes": "✓", "partly": "◐", "no": "✗"}
VERDICTS = {"pass": "✓", "watch": "!", "fail": "✗", "not tried": "–"}
_TEMPLATE, _STYLE = "page.jinja", "page.css"


def render(report: Mapping[str, Any]) -> str:
    """The page, as HTML. Needs matplotlib and jinja2, from the extra `audit`."""
    from markupsafe import Markup

    targets = report["request"]["forget"]
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            report=report,
            title=f"Audit: {', '.join(targets)}",
            target=targets[0] if len(targets) == 1 else f"{len(targets)} nodes",
            roles=_roles(report),
            answers=_answers(report["summary"]),
            measures=_measures(report, whole=True),
            by_level=_measures(report, whole=False),
            metrics=_metrics(report),
            figures=[(one, [Markup(panel.svg) for panel in one.panels]) for one in figures_of(report)],
            time=_time(report["time"]),
            digest=hashlib.sha256(serialised(report)).hexdigest(),
            style=Markup(_asset(_STYLE)),
            verdicts=VERDICTS,
            scales=SCALES,
            names=MEASURES,
            role_names=ROLES,
        )
    )


def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    filters: dict[str, Callable[..., str]] = {"number": _number, "interval": _interval, "chance": _chance}
    environment.filters.update(filters)
    return environment


def _asset(name: str) -> str:
    return files("chip.audit").joinpath(name).read_text("utf-8")


def _plain(value: object) -> object:
    """What the template puts out, without characters that act; what is markup already is our own."""
    from markupsafe import Markup

    return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _roles(report: Mapping[str, Any]) -> list[str]:
    return [role for role in ROLES if role in report["request"]["models"]]


def _answers(summary: Mapping[str, str]) -> list[dict[str, str]]:
    """The three questions of the first screen, each with its short answer and its sentence."""
    asked = (
        ("Is it gone?", "gone", "is_gone", "gone"),
        ("What did it cost?", "the rest kept", "is_kept", "cost"),
        ("What could bring it back?", "stays gone", "stays_gone", "back"),
    )
    return [
        {
            "question": question,
            "what": what,
            "short": summary[short],
            "sign": ANSWERS[summary[short]],
            "sentence": summary[sentence],
        }
        for question, what, short, sentence in asked
    ]


def _measures(report: Mapping[str, Any], *, whole: bool) -> list[dict[str, Any]]:
    """By measure, the groups on which it is defined: whole ones, or those of one level."""
    groups = [group for group in report["groups"] if whole is not bool(group["level"])]
    found = []
    for name, (title, meaning) in MEASURES.items():
        defined = [group for group in groups if any(name in one for one in group["measures"].values())]
        if defined:
            found.append({"name": name, "title": title, "meaning": meaning, "groups": defined})
    return found


def _metrics(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """DuoLearn's metrics, a row each: what it is, before, after and of the retrained model, or why not."""
    edited, gold = report["published"]["edited"], report["published"].get("gold")
    return [
        {
            "title": title,
            "meaning": meaning.format(NONMEMBERS[edited["nonmembers"]]),
            "before": edited[name]["before"],
            "after": edited[name]["after"],
            "retrained": gold[name]["after"] if gold else None,
            "why": edited[name]["why"],
        }
        for name, (title, meaning) in METRICS.items()
    ]


def _time(written: str) -> str:
    return f"{datetime.fromisoformat(written):%-d %B %Y, %H:%M} UTC"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(interval: Mapping[str, float] | None) -> str:
    return "" if interval is None else f"{interval['low']:.2f} to {interval['high']:.2f}"


def _chance(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
