"""Choosing patients of an export, reading their reports and writing their pictures: the charts of a benchmark."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from chip.errors import ChipError
from chip.medforget.charts import Chart
from chip.medforget.export import Export, Problems, Study
from chip.medforget.layout import IMAGES
from chip.medforget.pictures import picture_or_none
from chip.medforget.reports import report_of
from chip.medforget.selection import dealt, in_drawn_order
from chip.medforget.spellings import SECTIONS
from chip.progress import Track, silent

FRONTAL = ("PA", "AP")
VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LAT": "LATERAL", "LL": "LATERAL", "RL": "LATERAL"}
"""Projections that are asked for, by what exports call them: what else stands there, such as PORTABLE, is none."""

NO_FINDING = "No Finding"

NO_PICTURE = "studies without an image that can be used"
NO_INSTITUTION = "patients without an institution, where others have one, left out"


@dataclass(frozen=True)
class BuildSettings:
    """How a benchmark is built. institutions: made up, where the export names none. patients: at most, 0 for all.
    fewest, most: studies of a patient. pictures: of a study, at most. side: pixels that an image's longer side has at
    most. options: that a classification offers. sections: those that are asked about. seed: draws whatever is drawn."""

    institutions: int = 8
    patients: int = 64
    fewest: int = 2
    most: int = 4
    pictures: int = 2
    side: int = 512
    options: int = 4
    sections: tuple[str, ...] = SECTIONS
    seed: int = 0


@dataclass(frozen=True)
class Charted:
    """The charts of the chosen patients, by institution, patient and study. named: whether the export names
    institutions. patients: how many there are, how many have too few studies that can be used, how many were chosen."""

    charts: tuple[Chart, ...]
    named: bool
    patients: Mapping[str, int]


def chart(export: Export, out: Path, settings: BuildSettings, problems: Problems, track: Track = silent) -> Charted:
    """Choose patients in drawn order until enough have enough studies, and write their pictures under `out`.

    Raises ChipError where nobody has enough.
    """
    studies: dict[str, list[Study]] = defaultdict(list)
    for study in export.studies():
        studies[study.patient].append(study)
    enough = [patient for patient, own in studies.items() if len(own) >= settings.fewest]
    (out / IMAGES).mkdir(parents=True)
    named = any(study.institution for own in studies.values() for study in own)
    chosen: dict[str, list[Chart]] = {}
    where: dict[str, str] = {}
    few = len(studies) - len(enough)
    for patient in track(in_drawn_order(enough, settings.seed, "patient"), "reading patients"):
        if settings.patients and len(chosen) == settings.patients:
            break
        if named:
            where[patient] = next((one.institution for one in studies[patient] if one.institution), "")
            if not where[patient]:
                problems.add(NO_INSTITUTION, patient)
                continue
        own = list(_usable(sorted(studies[patient], key=lambda one: one.name), out, settings, problems))
        if len(own) >= settings.fewest:
            chosen[patient] = own
        else:
            few += 1
    if not chosen:
        raise ChipError(
            f"none of {len(studies)} patients has {settings.fewest} studies with an image and a report in sections"
            f"{_said(problems)}; give a smaller --min-studies, or see what was left out"
        )
    if not named:
        where = dealt(list(chosen), settings.institutions)
    charts = [replace(one, institution=where[patient]) for patient, own in chosen.items() for one in own]
    _remove_unused(out, charts)
    counts = {"in the export": len(studies), "with too few studies": few, "chosen": len(chosen)}
    return Charted(tuple(sorted(charts, key=lambda one: one.path)), named, counts)


def _usable(own: Sequence[Study], out: Path, settings: BuildSettings, problems: Problems) -> Iterator[Chart]:
    """A patient's studies that have a report in sections and an image, as many as are wanted."""
    found = 0
    for study in own:
        if found == settings.most:
            return
        report = report_of(study, problems)
        sections = {} if report is None else {name: report.text_of(name) for name in settings.sections}
        sections = {name: said for name, said in sections.items() if said.strip("_ .")}
        if not sections:
            continue
        pictures = list(_pictures(study, out, settings, problems))
        if not pictures:
            problems.add(NO_PICTURE, study.name)
            continue
        present, uncertain = (
            tuple(sorted(name for name, value in study.labels.items() if value == wanted and name != NO_FINDING))
            for wanted in (1, -1)
        )
        views = dict(reversed(pictures))
        names = tuple(dict.fromkeys(name for name, _ in pictures))
        found += 1
        yield Chart(
            study.institution,
            study.patient,
            study.name,
            sections,
            names,
            tuple(views[name] for name in names),
            present,
            uncertain,
        )


def _pictures(study: Study, out: Path, settings: BuildSettings, problems: Problems) -> Iterator[tuple[str, str]]:
    """Names and views of a study's pictures, frontal ones first, each written as PNG without any metadata."""
    order = sorted(study.pictures, key=lambda one: (one.view not in FRONTAL, one.path.name, one.path))
    found = 0
    for one in order:
        if found == settings.pictures:
            return
        picture = picture_or_none(one, problems, study.name)
        if picture is None:
            continue
        picture.thumbnail((settings.side, settings.side), Image.Resampling.LANCZOS)
        content = BytesIO()
        Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(content, "PNG")
        name = f"{IMAGES}/{hashlib.sha256(content.getvalue()).hexdigest()[:24]}.png"
        (out / name).write_bytes(content.getvalue())
        found += 1
        yield name, VIEWS.get(one.view.strip().upper(), "")


def _remove_unused(out: Path, charts: Sequence[Chart]) -> None:
    """Remove pictures of patients who turned out to have too few studies."""
    used = {name for chart in charts for name in chart.pictures}
    for path in (out / IMAGES).iterdir():
        if f"{IMAGES}/{path.name}" not in used:
            path.unlink()


def _said(problems: Problems) -> str:
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(problems.counts.items()))
    return f" ({found})" if found else ""
