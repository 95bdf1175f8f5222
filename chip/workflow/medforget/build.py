"""The use case of building: an export becomes a data directory, which stands whole at its place or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chip.duolearn.lexicon import read_lexicon
from chip.edit.staging import StagedDirectory
from chip.errors import ChipError, UsageError
from chip.files import explained, refuse_unwritable
from chip.hierarchy import Hierarchy
from chip.medforget.building import Built, build
from chip.medforget.charting import BuildSettings
from chip.medforget.export import Problems
from chip.medforget.layout import MANIFEST, SPLITS, TRAINING
from chip.medforget.reading import open_export
from chip.medforget.splits import Sizes, Splits, divide, write_splits
from chip.progress import Track, silent
from chip.records import read_records
from chip.records.parquet import ONLY, ForgetSet, library, write_parquet
from chip.training_settings import at_least


@dataclass(frozen=True)
class BuildRequest:
    """What `chip medforget build` was asked. strict: anything wrong with the export is an error."""

    export: Path
    out: Path
    settings: BuildSettings = field(default_factory=BuildSettings)
    sizes: Sizes = field(default_factory=Sizes)
    lexicon: Path | None = None
    parquet: bool = False
    strict: bool = False
    force: bool = False


@dataclass(frozen=True)
class BuildResult:
    """What was built, its forget sets, and what was wrong with the export."""

    built: Built
    splits: Splits
    problems: Mapping[str, Mapping[str, object]]
    out: Path


def carry_out_build(request: BuildRequest, *, track: Track = silent) -> BuildResult:
    """Build a benchmark. Raises ChipError where the export cannot be read or `out` cannot be written."""
    _refuse_settings(request.settings)
    _refuse_output(request.out, request.force)
    if request.out.resolve().is_relative_to(request.export.resolve()):
        raise ChipError(f"--out {request.out} lies inside the export, which is left as it is; name another directory")
    if request.export.resolve().is_relative_to(request.out.resolve()):
        raise ChipError(f"--out {request.out} holds the export, which would be replaced; name another directory")
    if request.parquet:
        library()
    lexicon = read_lexicon(request.lexicon)
    problems = Problems(strict=request.strict)
    export = open_export(request.export, problems)
    with StagedDirectory(request.out, force=request.force) as staged, explained(request.out):
        built = build(export, staged.directory, request.settings, lexicon, problems, track)
        hierarchy = read_records(staged.directory)
        splits = divide(hierarchy, request.sizes, request.settings.seed)
        write_splits(staged.directory / SPLITS, splits)
        if request.parquet:
            _write_parquet(staged.directory, hierarchy, splits)
        staged.sync()
        staged.commit(private=True)
    return BuildResult(built, splits, problems.as_json(), request.out)


def _refuse_settings(settings: BuildSettings) -> None:
    for flag, value, least in (
        ("--institutions", settings.institutions, 1),
        ("--patients", settings.patients, 0),
        ("--min-studies", settings.fewest, 1),
        ("--max-studies", settings.most, 1),
        ("--max-pictures", settings.pictures, 1),
        ("--image-size", settings.side, 16),
        ("--options", settings.options, 3),
        ("--seed", settings.seed, 0),
    ):
        at_least(flag, value, least)
    if settings.most < settings.fewest:
        raise UsageError(f"--max-studies {settings.most} is below --min-studies {settings.fewest}")
    if settings.options > 8:
        raise UsageError(f"--options {settings.options}: give at most 8")


def _refuse_output(out: Path, force: bool) -> None:
    refuse_unwritable(out)
    if out.is_file():
        raise ChipError(f"--out {out} is a file; name a directory")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MANIFEST).is_file():
            raise ChipError(f"--out {out} holds files that chip did not build; name another directory")
        if not force:
            raise ChipError(f"--out {out} holds a benchmark; name another directory, or replace it with --force")


def _write_parquet(directory: Path, hierarchy: Hierarchy, splits: Splits) -> None:
    sets = [
        ForgetSet(level, ONLY if len(found) == 1 else one.name, one.forget)
        for level, found in splits.levels.items()
        for one in found
    ]
    write_parquet(directory, hierarchy, sets, read_records(directory, TRAINING))
