"""chip takes named things out of a trained model without training it.

import chip

edit = chip.edit("model", "records", forget=["patient_123"])
print(edit)
audit = chip.Audit.of("model", edit.checkpoint, "records", forget=["patient_123"])
audit.save("report")

docs/python.md shows each noun at work. What is not named here is chip's own and may change.
"""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack

# Loaded first, so that the function below keeps the name for itself: `import chip.edit as name` is the function too.
import chip.edit as _room  # noqa: F401
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.lazy import lazy_names
from chip.settings import CollectSettings, EditSettings, TuningSettings
from chip.version import VERSION as __version__

if TYPE_CHECKING:
    from chip.api import Audit, Edit, Statistics
    from chip.api.given import AnyModel, AnyRecords
    from chip.api.options import EditOptions

__all__ = [
    "Audit",
    "ChipError",
    "CollectSettings",
    "Edit",
    "EditSettings",
    "Record",
    "Statistics",
    "TuningSettings",
    "__version__",
    "edit",
]

__getattr__ = lazy_names(__name__, {".api": ["Audit", "Edit", "Statistics"]})


def __dir__() -> list[str]:
    return __all__


def edit(
    model: "AnyModel",
    data: "AnyRecords",
    forget: Sequence[str],
    *,
    out: str | PathLike[str] | None = None,
    processor: Any = None,
    levels: Sequence[str] | None = None,
    statistics: "Statistics | str | PathLike[str] | None" = None,
    settings: EditSettings | None = None,
    **options: "Unpack[EditOptions]",
) -> "Edit":
    """Forget nodes, as `chip edit` does, and say what became of it.

    model: directory of a checkpoint, of which an edited one is written to `out` (`MODEL-forgotten` by default); or a
    loaded model with its `processor`, which stays as it is unless `in_place`: `Edit.apply` changes it. data: directory
    of records, or a list of them with the names of their `levels`. forget: names or paths of nodes. statistics: those
    to use, or the file to keep them in (of a loaded model, `Statistics.collect` keeps them).

    Further keywords are settings, those of `EditSettings` such as `method` or `strength`, and the flags of `chip edit`
    such as `tuning`, `dry_run` or `verify`. Where the first edit misses its goals, settings that were not given are
    searched; `settings` gives them all at once, so that nothing is.

    Raises ChipError for bad input, with nothing written.
    """
    from chip.api import edit as carried_out

    return carried_out(
        model,
        data,
        forget,
        out=out,
        processor=processor,
        levels=levels,
        statistics=statistics,
        settings=settings,
        **options,
    )
