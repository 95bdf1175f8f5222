"""`chip batch`: many requests from one model that is loaded once."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import (
    BatchTokens,
    Data,
    Device,
    Dtype,
    Force,
    Forgotten,
    ForgottenNode,
    Json,
    Link,
    MaxRecordsPerNode,
    MaxRetainDrop,
    MaxTargetMatch,
    ModelArgument,
    SaveEvery,
    Sign,
    Statistics,
    StatisticsMemory,
    Trials,
    Tune,
    Verify,
    VerifyRecords,
    Workers,
    quiet_libraries,
)
from chip.settings import CollectSettings, TuningSettings

_COLLECTING, _TUNING = CollectSettings(), TuningSettings()


def batch(
    model: ModelArgument,
    requests: Annotated[
        Path, typer.Argument(help='One request a line: {"forget": …, "out": …, "settings": {…}}.', show_default=False)
    ],
    data: Data,
    out_dir: Annotated[
        Path,
        typer.Option(
            help="Directory of all that is written, made if need be.", envvar="CHIP_OUT_DIR", show_default=False
        ),
    ],
    cumulative: Annotated[
        bool,
        typer.Option("--cumulative", help="One checkpoint, OUT_DIR/model, that forgets all of them in their order."),
    ] = False,
    jobs: Annotated[
        int, typer.Option(help="Processes that share the requests, each with the model.", envvar="CHIP_JOBS")
    ] = 1,
    statistics: Statistics = None,
    forgotten: Forgotten = None,
    forgotten_node: ForgottenNode = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_tokens: BatchTokens = None,
    workers: Workers = None,
    statistics_memory: StatisticsMemory = None,
    max_records_per_node: MaxRecordsPerNode = None,
    save_every: SaveEvery = _COLLECTING.save_every,
    verify: Verify = True,
    verify_records: VerifyRecords = 200,
    tune: Tune = None,
    trials: Trials = _TUNING.trials,
    max_retain_drop: MaxRetainDrop = _TUNING.max_retain_drop,
    max_target_match: MaxTargetMatch = _TUNING.max_target_match,
    force: Force = False,
    link: Link = False,
    sign: Sign = None,
    json: Json = False,
) -> None:
    """Carry out many requests: the model is loaded once, finished requests are skipped, a failed one stops no other."""
    collecting = CollectSettings(
        batch_tokens=batch_tokens,
        workers=workers,
        statistics_memory=statistics_memory,
        max_records_per_node=max_records_per_node,
        save_every=save_every,
    )
    tuning = TuningSettings(
        tune=tune, trials=trials, max_retain_drop=max_retain_drop, max_target_match=max_target_match
    )
    quiet_libraries()
    from chip.cli.console import Printer
    from chip.workflow import BatchRequest, carry_out_batch, prepare_batch

    printer = Printer(json)
    request = BatchRequest(
        model=model,
        requests=requests,
        data=data,
        out_dir=out_dir,
        cumulative=cumulative,
        jobs=jobs,
        statistics=statistics,
        forgotten=tuple(forgotten or ()),
        forgotten_nodes=tuple(forgotten_node or ()),
        collecting=collecting,
        tuning=tuning,
        device=device,
        dtype=dtype,
        verify=verify,
        verify_records=verify_records,
        force=force,
        link=link,
        sign=sign,
    )
    prepared = prepare_batch(request)
    source = prepared.supply.source
    if source.notice:
        printer.line(f"note: {source.notice}")
    kind = "in one checkpoint" if cumulative else "each from the same model"
    printer.line(f"{len(prepared.asked)} request{'s' * (len(prepared.asked) != 1)}, {kind}; statistics: {source.path}")
    if source.missing:
        several = "s" * (len(source.missing) != 1)
        printer.line(f"{len(source.missing)} record{several} to collect; {prepared.supply.collection.described}")
    result = carry_out_batch(prepared, printer.track, printer.notice, printer.outcome)
    shown = (*result.outcomes, *((result.together,) if result.together else ()))
    printer.outcomes(shown)
    printer.line(f"written: {out_dir}  (summary: {result.summary}, ledger: {result.ledger})")
    printer.line("Do not publish the model before and after together: their difference shows what was removed.")
    printer.result(
        {
            "out_dir": out_dir,
            "summary": result.summary,
            "ledger": result.ledger,
            "outcomes": [{**one.as_json(), "forget": one.forget, "reason": one.reason} for one in shown],
        }
    )
    if result.failed:
        raise typer.Exit(1)
