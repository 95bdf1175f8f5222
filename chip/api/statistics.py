"""Statistics from Python: `chip.Statistics`, what one pass over the records leaves behind for every later request."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, Unpack

from chip import collect
from chip.api.given import AnyModel, AnyRecords, checked_options, given_model, given_records, refuse_about_checkpoints
from chip.api.options import CollectOptions
from chip.collect.file import Provenance, load_statistics, save_statistics
from chip.workflow import CollectRequest, carry_out_collection, prepare_collection


@dataclass(frozen=True)
class Statistics:
    """Sums over the records at each site of a model, tied to both by digests. They name nodes: keep them with the data.

    `chip.edit(…, statistics=…)` takes them, where they are of its model and its records.
    """

    sums: collect.Statistics = field(repr=False)
    provenance: Provenance = field(repr=False)

    @classmethod
    def collect(
        cls,
        model: AnyModel,
        data: AnyRecords,
        *,
        out: str | PathLike[str] | None = None,
        processor: Any = None,
        levels: Sequence[str] | None = None,
        **options: Unpack[CollectOptions],
    ) -> Self:
        """Run the records once, as `chip collect` does. out: a file to keep them in, from which an interrupted
        collection goes on and to which new records are added; by default they are kept in memory alone.

        model, data, processor, levels: as in `chip.edit`. Raises ChipError for bad input.
        """
        refuse_about_checkpoints(model, options, ("device", "dtype"))
        with (
            given_model(model, processor) as where,
            given_records(data, levels) as records,
            TemporaryDirectory(prefix="chip-statistics-") as scratch,
        ):
            path = Path(scratch) / "statistics.safetensors" if out is None else Path(out)
            request = CollectRequest(
                where.directory, records.directory, path, **checked_options(options, CollectOptions)
            )
            prepared = prepare_collection(request, model=where.loaded, records=records.hierarchy)
            return cls(carry_out_collection(prepared), prepared.counted.provenance)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a statistics file. Raises ChipError where it is none, or is damaged."""
        return cls(*load_statistics(Path(path)))

    @property
    def nodes(self) -> tuple[tuple[str, ...], ...]:
        """The paths that records sit on."""
        return self.sums.nodes

    @property
    def records(self) -> int:
        """How many records they count."""
        return len(self.provenance.records)

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the linear layers that they are of."""
        wanted = self.sums.wanted
        return tuple(dict.fromkeys((*wanted.pooled, *wanted.answer, *wanted.image)))

    def __str__(self) -> str:
        return f"statistics of {self.records} records on {len(self.nodes)} nodes at {len(self.sites)} sites"

    def save(self, path: str | PathLike[str]) -> None:
        """Write a statistics file, mode 0600, which the command line reads too (`--statistics`)."""
        save_statistics(self.sums, self.provenance, Path(path))


@contextmanager
def kept_at(statistics: Statistics | str | PathLike[str] | None) -> Iterator[Path | None]:
    """The file that statistics are in while work goes on; None where none were given."""
    if not isinstance(statistics, Statistics):
        yield None if statistics is None else Path(statistics)
        return
    with TemporaryDirectory(prefix="chip-statistics-") as scratch:
        path = Path(scratch) / "statistics.safetensors"
        statistics.save(path)
        yield path
