"""chip takes named things out of a trained model without training it.

import chip

result = chip.edit("model", "records", forget=["patient_123"])
print(result.rows)
"""

from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chip.edit as _room  # noqa: F401  loaded first, so that the function below keeps the name for itself
from chip.errors import ChipError
from chip.settings import CollectSettings, EditSettings, TuningSettings
from chip.version import VERSION as __version__

if TYPE_CHECKING:
    from chip.workflow import EditResult

__all__ = ["ChipError", "CollectSettings", "EditSettings", "TuningSettings", "__version__", "edit"]


def edit(
    model: str | PathLike[str],
    data: str | PathLike[str],
    forget: list[str] | tuple[str, ...],
    *,
    out: str | PathLike[str] | None = None,
    settings: EditSettings | None = None,
    **others: Any,
) -> "EditResult":
    """Forget nodes: write the edited checkpoint to `out` (`MODEL-forgotten` by default) and say what became of it.

    model: directory of a checkpoint. data: directory of records. forget: names or paths of nodes. Further keywords are
    settings, those of `EditSettings` such as `method` or `strength`, and what else `chip.workflow.EditRequest` holds,
    such as `tuning`, `dry_run` or `verify`. Where the first edit misses its goals, settings that were not given are
    searched; `settings` gives them all at once, so that nothing is.

    Does what `chip edit` does. Raises ChipError for bad input, with nothing written.
    """
    from chip.workflow import EditRequest, carry_out, prepare_edit

    names = frozenset(one.name for one in fields(EditSettings))
    given = {name: others.pop(name) for name in sorted(names & set(others))}
    request: dict[str, Any] = {"fixed": frozenset(given) if settings is None else names, **others}

    prepared = prepare_edit(
        EditRequest(
            model=str(model),
            data=Path(data),
            forget=tuple(forget),
            out=None if out is None else Path(out),
            settings=replace(settings or EditSettings(), **given),
            **request,
        )
    )
    return carry_out(prepared)
