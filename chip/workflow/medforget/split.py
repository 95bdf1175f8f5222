"""The use case of splitting: forget and retain sets for any data directory, built by chip or not."""

from dataclasses import dataclass, field
from pathlib import Path

from chip.errors import ChipError
from chip.files import refuse_foreign, refuse_unwritable
from chip.medforget.layout import SPLITS
from chip.medforget.splits import Sizes, Splits, divide, write_splits
from chip.records import read_records
from chip.training_settings import at_least


@dataclass(frozen=True)
class SplitRequest:
    """What `chip medforget split` was asked. out: the file; splits.json of the data directory where None."""

    data: Path
    out: Path | None = None
    sizes: Sizes = field(default_factory=Sizes)
    levels: tuple[str, ...] = ()
    seed: int = 0
    force: bool = False


def carry_out_split(request: SplitRequest) -> tuple[Splits, Path]:
    """Write forget sets. Raises ChipError where no level has a node that could be one."""
    at_least("--seed", request.seed, 0)
    out = request.out or request.data / SPLITS
    refuse_unwritable(out)
    refuse_foreign(out)
    if out.exists() and not request.force:
        raise ChipError(f"{out} is there; name another --out, or replace it with --force")
    splits = divide(read_records(request.data), request.sizes, request.seed, request.levels)
    if not any(splits.levels.values()):
        raise ChipError(
            f"no node of {request.data} can be a target: see docs/medforget.md for the rules, or give a smaller "
            "--min-siblings"
        )
    write_splits(out, splits)
    return splits, out
