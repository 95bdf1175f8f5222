"""`chip medforget run`: every method at every level, in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chip.cli.edit import edit
from chip.cli.medforget.options import Levels, Splits
from chip.cli.options import (
    AllowRemoteJudge,
    BatchSize,
    Device,
    Dtype,
    Json,
    JudgeEndpoint,
    JudgeModel,
    ModelArgument,
    Seed,
    VerifyRecords,
    quiet_libraries,
)

if TYPE_CHECKING:
    from chip.medforget.contest import Method


def run(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(help="Data directory with records.jsonl.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory for tables, figure and outcomes.", show_default=False)],
    methods: Annotated[
        str,
        typer.Option(help="Methods of `chip edit`, with flags of their own if need be: 'oblique,chip --layers 0-3'."),
    ] = "counterpart,oblique,chip",
    level: Levels = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Forget set, by name; may be repeated; all by default.", show_default=False),
    ] = None,
    splits: Splits = None,
    gold: Annotated[
        Path | None,
        typer.Option(
            help="Model retrained without the forget set, or a folder of such models, called by level.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Edits that a method may try.")] = 8,
    seconds: Annotated[int, typer.Option(help="Seconds of the processor that a method may take; 0 for any.")] = 0,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Attack to make, by name, or `none`; may be repeated; rephrasing, membership, reconstruction and "
            "prefill by default.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick/--thorough", help="Attacks with fewer tries each.")] = True,
    judge: JudgeEndpoint = None,
    judge_model: JudgeModel = "default",
    allow_remote_judge: AllowRemoteJudge = False,
    nonmembers: Annotated[
        Path | None,
        typer.Option(
            help="Data directory of records that no model has seen, for the membership attack.", show_default=False
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave edited checkpoints in OUT/work.")] = False,
    verify_records: VerifyRecords = 200,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Let methods forget what the splits name, level by level; examine and attack what they leave.

    What was measured is kept and not measured again. Several processes, started by `accelerate launch`, share the
    methods.
    """
    quiet_libraries()
    from chip.audit.judging import Judge
    from chip.cli.console import Printer
    from chip.cli.medforget.view import show_results
    from chip.collect.team import launched
    from chip.medforget.contest import read_methods
    from chip.medforget.results import as_json
    from chip.workflow.medforget.run import carry_out_run
    from chip.workflow.medforget.run_prepared import ATTACKS_MADE, RunRequest

    chosen = read_methods(methods)
    _refuse_unknown_flags(chosen)
    printer = Printer(json, quiet=launched()[0] > 0)
    request = RunRequest(
        model=model,
        data=data,
        out=out,
        methods=chosen,
        levels=tuple(level or ()),
        sets=tuple(sets or ()),
        splits=splits,
        gold=gold,
        trials=trials,
        seconds=seconds,
        attacks=tuple(one for one in attacks if one != "none") if attacks else ATTACKS_MADE,
        quick=quick,
        judge=Judge(judge, judge_model, allow_remote_judge) if judge else None,
        nonmembers=nonmembers,
        records=verify_records,
        keep=keep,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        seed=seed,
    )
    results = carry_out_run(request, track=printer.track, notice=printer.notice)
    show_results(printer, results, out)
    printer.result(as_json(results))


def _refuse_unknown_flags(methods: "Sequence[Method]") -> None:
    """Wrong usage, before anything runs, where `chip edit` would not take a method's flags."""
    alone = typer.Typer()
    alone.command()(edit)
    for one in methods:
        needed = ["MODEL", "--data", "DATA", "--forget", "NODE", "--method", one.name]
        typer.main.get_command(alone).make_context("chip edit", [*needed, *one.flags])
