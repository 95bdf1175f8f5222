"""`chip medforget finetune`: plant a benchmark's data in a base model."""

from pathlib import Path
from typing import Annotated

import typer

from chip.cli.options import Device, Dtype, Force, Json, ModelArgument, SaveEvery, Seed, quiet_libraries
from chip.medforget.finetune_settings import FinetuneSettings
from chip.settings import CollectSettings

_STANDARD, _COLLECTING = FinetuneSettings(), CollectSettings()


def finetune(
    model: ModelArgument,
    directory: Annotated[
        Path,
        typer.Argument(help="Data directory: training.jsonl of it, or else records.jsonl.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(help="Directory of the tuned checkpoint.", envvar="CHIP_OUT", show_default=False)
    ],
    without: Annotated[
        list[str] | None,
        typer.Option(help="Node to leave out, with all under it, by name or path.", show_default=False),
    ] = None,
    without_set: Annotated[
        list[str] | None,
        typer.Option(help="Forget set to leave out, as LEVEL or LEVEL/NAME of splits.json.", show_default=False),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Where --without-set looks; splits.json of the data by default.")
    ] = None,
    train: Annotated[str, typer.Option(help="lora, or full: every parameter, for small models.")] = _STANDARD.train,
    epochs: Annotated[int, typer.Option(help="How often all records are taught.")] = _STANDARD.epochs,
    learning_rate: Annotated[
        float, typer.Option(help="Of AdamW, at the first step; it falls to 0.")
    ] = _STANDARD.learning_rate,
    lora_rank: Annotated[int, typer.Option(help="Rank of the factors.")] = _STANDARD.lora_rank,
    lora_alpha: Annotated[
        float, typer.Option(help="The factors' product counts alpha / rank times.")
    ] = _STANDARD.lora_alpha,
    lora_dropout: Annotated[
        float, typer.Option(help="Share of the factors' inputs that is dropped.")
    ] = _STANDARD.lora_dropout,
    projector: Annotated[
        bool, typer.Option("--projector", help="LoRA: beside the projector's linear layers too.")
    ] = _STANDARD.projector,
    batch_size: Annotated[int, typer.Option(help="Records that run at once.")] = _STANDARD.batch_size,
    accumulate: Annotated[int, typer.Option(help="How many times so many make up a step.")] = _STANDARD.accumulate,
    wordings: Annotated[
        int | None,
        typer.Option(
            help="Wordings taught of a record, one an epoch; all in training.jsonl, else the question alone.",
            show_default=False,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Compute activations again instead of keeping them; with LoRA by default in large models.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = _STANDARD.seed,
    log: Annotated[Path | None, typer.Option(help="Keep the loss of each step in this file (JSON lines).")] = None,
    edit_out: Annotated[
        Path | None, typer.Option(help="Also keep what was added in this file; `chip export` makes an adapter of it.")
    ] = None,
    save_every: SaveEvery = _COLLECTING.save_every,
    keep_last_good: Annotated[
        bool, typer.Option("--keep-last-good", help="Where the training diverges, end with its last good state.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Plant the data in a base model by LoRA, or by training all of it; run again, it goes on where it was interrupted.

    Several processes share the work: torchrun or `accelerate launch -m chip medforget finetune …`.
    """
    settings = FinetuneSettings(
        train=train,
        epochs=epochs,
        learning_rate=learning_rate,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        batch_size=batch_size,
        accumulate=accumulate,
        projector=projector,
        wordings=wordings,
        seed=seed,
        checkpointing=gradient_checkpointing,
    )
    quiet_libraries()
    from chip.cli.console import Printer
    from chip.collect.team import launched
    from chip.workflow.medforget.finetune import carry_out_finetune, prepare_finetune
    from chip.workflow.medforget.finetune_plan import FinetuneRequest

    printer = Printer(json, quiet=launched()[0] > 0)
    prepared = prepare_finetune(
        FinetuneRequest(
            model,
            directory,
            out,
            settings,
            tuple(without or ()),
            tuple(without_set or ()),
            splits,
            log,
            edit_out,
            save_every,
            keep_last_good,
            device,
            dtype,
            force,
        )
    )
    printer.facts(prepared.facts)
    for notice in prepared.notices:
        printer.line(f"note: {notice}")
    done = carry_out_finetune(prepared, printer.track, printer.notice)
    if done is None:
        # The first of several processes wrote.
        return
    printer.asked(done.asked)
    printer.line(f"written: {done.out}  (receipt: {done.receipt})")
    printer.proof(done.proof)
    printer.result(done.as_json())
