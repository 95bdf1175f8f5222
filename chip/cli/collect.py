"""`chip collect`: gather the statistics of a data set once, for every later request."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Alpha, BatchSize, Data, Device, Dtype, Json, ModelArgument, quiet_libraries
from chip.settings import EditSettings

_STANDARD = EditSettings()


def collect(
    model: ModelArgument,
    data: Data,
    out: Annotated[Path, typer.Option(help="The statistics file to write.", show_default=False)],
    alpha: Alpha = _STANDARD.alpha,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = _STANDARD.batch_size,
    json: Json = False,
) -> None:
    """Run every record once and keep the sums that edits need; holds node names, so mode 0600."""
    settings = EditSettings(alpha=alpha, batch_size=batch_size)
    quiet_libraries()
    from chip.cli.console import Printer
    from chip.workflow import collect_statistics

    printer = Printer(json)
    statistics, provenance = collect_statistics(model, data, out, settings, device, dtype, printer.track)
    size, wanted = out.stat().st_size, statistics.wanted
    printer.line(f"{len(provenance.records)} records collected at {len(wanted.pooled)} sites")
    printer.line(f"written: {out} ({size / 2**20:.1f} MiB)")
    printer.result({"out": str(out), "records": len(provenance.records), "sites": wanted.pooled, "bytes": size})
