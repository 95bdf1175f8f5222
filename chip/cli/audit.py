"""`chip audit`: what was forgotten, what was kept, and what an attacker gets back."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import (
    AllowRemoteJudge,
    BatchSize,
    Data,
    Device,
    Dtype,
    Forget,
    Json,
    JudgeEndpoint,
    JudgeModel,
    Lexicon,
    Seed,
    VerifyRecords,
    quiet_libraries,
)


def audit(
    base: Annotated[str, typer.Argument(help="The model before the edit.", show_default=False)],
    edited: Annotated[str, typer.Argument(help="The model after it.", show_default=False)],
    forget: Forget,
    data: Data,
    gold: Annotated[
        str | None,
        typer.Option(
            help="A model retrained without the target: what verdicts are held against.",
            envvar="CHIP_GOLD",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for report.html and report.json.", envvar="CHIP_REPORT", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The quicker attacks only, with fewer tries each.")] = False,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            help="Attack to make, by name, or `none`; may be repeated; all by default.",
            envvar="CHIP_ATTACKS",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Another edited model, for the scatter; may be repeated.", show_default=False),
    ] = None,
    lexicon: Lexicon = None,
    nonmembers: Annotated[
        Path | None,
        typer.Option(
            help="Data directory of records that the base never saw, for the membership attack; by default, the "
            "target's questions with others' answers.",
            envvar="CHIP_NONMEMBERS",
            show_default=False,
        ),
    ] = None,
    utility: Annotated[
        Path | None,
        typer.Option(
            help="Data directory of further records that shall stay known.", envvar="CHIP_UTILITY", show_default=False
        ),
    ] = None,
    judge: JudgeEndpoint = None,
    judge_model: JudgeModel = "default",
    allow_remote_judge: AllowRemoteJudge = False,
    lm_eval: Annotated[
        list[str] | None,
        typer.Option(help="Task of the Language Model Evaluation Harness; may be repeated.", show_default=False),
    ] = None,
    lm_eval_tasks: Annotated[
        Path | None,
        typer.Option(help="Directory that describes tasks of your own for the harness.", show_default=False),
    ] = None,
    show_records: Annotated[
        bool, typer.Option("--show-records", help="Put examples of questions and answers into the report.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    verify_records: VerifyRecords = 200,
    force: Annotated[bool, typer.Option("--force", help="Replace a report that is there.")] = False,
    json: Json = False,
) -> None:
    """Show what was forgotten and kept, and what an attacker gets back.

    Everything runs offline. An audit that was interrupted goes on where it was, if it writes a report (--out).
    """
    quiet_libraries()
    from chip.audit.judging import Judge
    from chip.cli.audit_view import show_audit
    from chip.cli.console import Printer
    from chip.workflow.audit import AuditRequest, carry_out_audit

    printer = Printer(json)
    request = AuditRequest(
        base=base,
        edited=edited,
        data=data,
        forget=tuple(forget),
        gold=gold,
        out=out,
        attacks=tuple(attacks) if attacks else None,
        quick=quick,
        compare=tuple(compare or ()),
        lexicon=lexicon,
        nonmembers=nonmembers,
        utility=utility,
        judge=Judge(judge, judge_model, allow_remote_judge) if judge else None,
        harness=tuple(lm_eval or ()),
        harness_tasks=lm_eval_tasks,
        show_records=show_records,
        records=verify_records,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        seed=seed,
        force=force,
    )
    found = carry_out_audit(request, track=printer.track, notice=printer.notice)
    show_audit(printer, found)
    printer.result({"rows": [asdict(row) for row in found.rows], "out": found.out, "report": found.report})
