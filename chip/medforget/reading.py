"""Opens an export: tells MIMIC-CXR's layout from a plain table, and says what was looked for where it is neither."""

from pathlib import Path

from chip.errors import ChipError
from chip.medforget import mimic, plain
from chip.medforget.export import Export, Problems
from chip.medforget.mimic import MimicExport, holds_patients
from chip.medforget.mimic_tables import TABLE
from chip.medforget.plain import PlainExport
from chip.medforget.tables import columns

_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz")


def open_export(path: Path, problems: Problems) -> Export:
    """The export that a folder, or a table's own file, holds. problems: gathers what is wrong with it.

    Raises ChipError where it is none, where several tables could be meant, or where it leaves no study.
    """
    if path.is_file():
        _refuse_unfit(path)
        return PlainExport(path, problems)
    if not path.is_dir():
        raise ChipError(f"{path} is not there; give the folder of an export, or its table")
    if holds_patients(path):
        return MimicExport(path, problems)
    tables = sorted(one for one in path.iterdir() if _is_table(one))
    fit = [one for one in tables if not _lacking(one)]
    if len(fit) == 1:
        return PlainExport(fit[0], problems)
    if fit:
        raise ChipError(f"{path} holds several tables ({_listed(fit)}); give the path of the one that is meant")
    if len(tables) == 1:
        _refuse_unfit(tables[0])
    found = f"found {_listed(tables)}, which lack columns" if tables else "found neither"
    raise ChipError(f"{path} is no export that can be read; looked for {mimic.LAYOUT}, and for {plain.LAYOUT}: {found}")


def _is_table(path: Path) -> bool:
    return path.name.endswith(_SUFFIXES) and path.is_file() and not TABLE.fullmatch(path.name)


def _lacking(path: Path) -> str:
    """What a table lacks to be an export, in words; empty where it lacks nothing."""
    there = columns(path)
    missing = [name for name in plain.NEEDED if name not in there]
    if not set(there) & set(plain.SHOWING):
        missing.append(" or ".join(plain.SHOWING))
    return ", ".join(missing)


def _refuse_unfit(path: Path) -> None:
    lacking = _lacking(path)
    if lacking:
        raise ChipError(f"{path} is no export that can be read: it has no column {lacking}; looked for {plain.LAYOUT}")


def _listed(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5]) + (", …" if len(paths) > 5 else "")
