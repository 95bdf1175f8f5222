"""`chip collect`: gather the statistics of a data set once, for every later request."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import (
    Alpha,
    BatchTokens,
    Data,
    Device,
    Dtype,
    Json,
    MaxRecordsPerNode,
    ModelArgument,
    SaveEvery,
    StatisticsMemory,
    Workers,
    quiet_libraries,
)
from chip.settings import CollectSettings, EditSettings

_STANDARD, _EDIT = CollectSettings(), EditSettings()


def collect(
    model: ModelArgument,
    data: Data,
    out: Annotated[
        Path, typer.Option(help="The statistics file to write, or to add to.", envvar="CHIP_OUT", show_default=False)
    ],
    sites: Annotated[
        str,
        typer.Option(
            help="Pooled for --method chip: language, projector, vision, attention; or none.",
            envvar="CHIP_SITES",
        ),
    ] = _EDIT.sites,
    alpha: Alpha = _EDIT.alpha,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_tokens: BatchTokens = None,
    workers: Workers = None,
    statistics_memory: StatisticsMemory = None,
    max_records_per_node: MaxRecordsPerNode = None,
    save_every: SaveEvery = _STANDARD.save_every,
    force: Annotated[bool, typer.Option(help="Replace statistics of another model or of other data.")] = False,
    json: Json = False,
) -> None:
    """Run every record once and keep the sums that edits need; holds node names, so mode 0600.

    A file that fits is added to or left as it is; an interrupted collection goes on where it stopped. Several processes
    share the work: torchrun or `accelerate launch -m chip collect …`.
    """
    settings = CollectSettings(
        batch_tokens=batch_tokens,
        workers=workers,
        statistics_memory=statistics_memory,
        max_records_per_node=max_records_per_node,
        save_every=save_every,
    )
    quiet_libraries()
    from chip.cli.console import Printer
    from chip.collect.team import launched
    from chip.workflow import CollectRequest, carry_out_collection, prepare_collection

    rank, processes = launched()
    printer = Printer(json, quiet=rank > 0)
    prepared = prepare_collection(CollectRequest(model, data, out, settings, sites, alpha, device, dtype, force))
    source = prepared.source
    if source.notice:
        printer.line(f"note: {source.notice}")
    count, missing = len(prepared.counted.positions), len(source.missing)
    if missing:
        shared = f" by {processes} processes" if processes > 1 else ""
        pooled = len(source.wanted.pooled)
        printer.line(f"{missing} records to collect{shared}, {pooled} sites to pool; {prepared.collection.described}")
    statistics = carry_out_collection(prepared, printer.track, printer.notice)
    if launched()[0] > 0:
        # The first process wrote, and may have done so on another machine.
        return
    size, wanted = out.stat().st_size, statistics.wanted
    printer.line(f"{count} records counted, {missing} of them collected now")
    printer.line(f"{'written' if missing else 'unchanged'}: {out} ({size / 2**20:.1f} MiB)")
    printer.result(
        {
            "out": str(out),
            "records": count,
            "collected": missing,
            "sites": wanted.pooled,
            "bytes": size,
            "second_moments": prepared.collection.moments,
            "batch_tokens": prepared.collection.batch_tokens,
        }
    )
