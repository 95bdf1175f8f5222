"""`chip edit`: forget nodes and write the new checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chip.cli.options import (
    Alpha,
    BatchSize,
    BatchTokens,
    Data,
    Device,
    Dtype,
    Force,
    Forget,
    Forgotten,
    ForgottenNode,
    InPlace,
    Json,
    Link,
    MaxRecordsPerNode,
    MaxRetainDrop,
    MaxTargetMatch,
    Models,
    Receipt,
    SaveEvery,
    Seed,
    Sign,
    Statistics,
    StatisticsMemory,
    Trials,
    Tune,
    Verify,
    VerifyRecords,
    Workers,
    one_of,
    quiet_libraries,
)
from chip.cli.training_options import (
    Basis,
    Beta,
    Choices,
    Clip,
    Damping,
    Delta,
    Dp,
    EarlyStop,
    Epsilon,
    ForgetWeight,
    GeometricSteps,
    LearningRate,
    Lexicon,
    LoraRank,
    LoraShare,
    LoraTargets,
    Preserving,
    QuestionWeight,
    RetainWeight,
    Steering,
    StepRecords,
    Steps,
    Train,
    TrainConfig,
    Trust,
    Unlearning,
    WeightDecay,
)
from chip.errors import ChipError
from chip.settings import KEYS, METHODS, CollectSettings, EditSettings, TuningSettings

if TYPE_CHECKING:
    from chip.cli.console import Printer
    from chip.plan import Plan
    from chip.workflow import EditRequest, EditResult

_STANDARD, _COLLECTING, _TUNING = EditSettings(), CollectSettings(), TuningSettings()


def edit(
    context: typer.Context,
    model: Models,
    forget: Forget,
    data: Data,
    method: Annotated[
        str, typer.Option(help=f"{', '.join(METHODS)}.", envvar="CHIP_METHOD", autocompletion=one_of(*METHODS))
    ] = _STANDARD.method,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Language layers, such as 22-27 or 0,2,5-7; the method's own by default.", envvar="CHIP_LAYERS"
        ),
    ] = None,
    sites: Annotated[
        str,
        typer.Option(
            help="chip: kinds of sites, of language, projector, vision and attention, by commas.", envvar="CHIP_SITES"
        ),
    ] = _STANDARD.sites,
    top_k: Annotated[
        float, typer.Option(help="chip: percent of a site's neurons that are projected.", envvar="CHIP_TOP_K")
    ] = _STANDARD.top_k,
    variance: Annotated[
        float, typer.Option(help="chip: share of the directions' energy that is removed.", envvar="CHIP_VARIANCE")
    ] = _STANDARD.variance,
    alpha: Alpha = _STANDARD.alpha,
    keys: Annotated[
        str,
        typer.Option(help="oblique: answer, image or both.", envvar="CHIP_KEYS", autocompletion=one_of(*KEYS)),
    ] = _STANDARD.keys,
    toward: Annotated[
        str,
        typer.Option(help="oblique: mean, unknown (what other images would give), or beyond it.", envvar="CHIP_TOWARD"),
    ] = _STANDARD.toward,
    strength: Annotated[
        float | None,
        typer.Option(help="counterpart, oblique: the weight β of forgetting; 1 by default.", envvar="CHIP_STRENGTH"),
    ] = None,
    retain_budget: Annotated[
        float | None,
        typer.Option(help="oblique: the distortion ε of retained outputs that finds β.", envvar="CHIP_RETAIN_BUDGET"),
    ] = None,
    ridge: Annotated[
        float | None,
        typer.Option(help="Ridge λ of the metric: counterpart, 0.1 by default; oblique, 0.01.", envvar="CHIP_RIDGE"),
    ] = None,
    sibling_weight: Annotated[
        float,
        typer.Option(help="counterpart, oblique: extra weight w of comparison records.", envvar="CHIP_SIBLING_WEIGHT"),
    ] = _STANDARD.sibling_weight,
    unknown_images: Annotated[
        int, typer.Option(help="oblique, unknown and beyond: other images shown.", envvar="CHIP_UNKNOWN_IMAGES")
    ] = _STANDARD.unknown_images,
    overshoot: Annotated[
        float,
        typer.Option(help="oblique, beyond: distortion up to which a change is enlarged.", envvar="CHIP_OVERSHOOT"),
    ] = _STANDARD.overshoot,
    gain: Annotated[
        float,
        typer.Option(help="counterpart: share of each change's gain that its low rank keeps.", envvar="CHIP_GAIN"),
    ] = _STANDARD.gain,
    held: Annotated[
        int, typer.Option(help="counterpart: retained records that run beside the target, at most.", envvar="CHIP_HELD")
    ] = _STANDARD.held,
    rounds: Annotated[
        int,
        typer.Option(help="counterpart: how often retained tokens that slip are weighed anew.", envvar="CHIP_ROUNDS"),
    ] = _STANDARD.rounds,
    refresh: Annotated[
        int,
        typer.Option(
            help="oblique: retained records whose keys are taken again at every site; 0 for none.",
            envvar="CHIP_REFRESH",
        ),
    ] = _STANDARD.refresh,
    train: Train = _STANDARD.train,
    lora_rank: LoraRank = _STANDARD.lora_rank,
    lora_share: LoraShare = _STANDARD.lora_share,
    lora_targets: LoraTargets = _STANDARD.lora_targets,
    steps: Steps = _STANDARD.steps,
    learning_rate: LearningRate = _STANDARD.learning_rate,
    step_records: StepRecords = _STANDARD.step_records,
    weight_decay: WeightDecay = _STANDARD.weight_decay,
    forget_weight: ForgetWeight = _STANDARD.forget_weight,
    retain_weight: RetainWeight = _STANDARD.retain_weight,
    beta: Beta = _STANDARD.beta,
    steering: Steering = _STANDARD.steering,
    geometric_steps: GeometricSteps = _STANDARD.geometric_steps,
    basis: Basis = _STANDARD.basis,
    trust: Trust = _STANDARD.trust,
    damping: Damping = _STANDARD.damping,
    lexicon: Lexicon = _STANDARD.lexicon,
    unlearning: Unlearning = _STANDARD.unlearning,
    preserving: Preserving = _STANDARD.preserving,
    question_weight: QuestionWeight = _STANDARD.question_weight,
    choices: Choices = _STANDARD.choices,
    early_stop: EarlyStop = _STANDARD.early_stop,
    dp: Dp = _STANDARD.dp,
    epsilon: Epsilon = _STANDARD.epsilon,
    delta: Delta = _STANDARD.delta,
    clip: Clip = _STANDARD.clip,
    train_config: TrainConfig = _STANDARD.train_config,
    statistics: Statistics = None,
    forgotten: Forgotten = None,
    forgotten_node: ForgottenNode = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the new checkpoint; MODEL-forgotten by default.", envvar="CHIP_OUT"),
    ] = None,
    receipt: Receipt = None,
    edit_out: Annotated[
        Path | None, typer.Option(help="Also keep the edit itself in this file.", envvar="CHIP_EDIT_OUT")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = _STANDARD.batch_size,
    batch_tokens: BatchTokens = None,
    workers: Workers = None,
    statistics_memory: StatisticsMemory = None,
    max_records_per_node: MaxRecordsPerNode = None,
    save_every: SaveEvery = _COLLECTING.save_every,
    seed: Seed = _STANDARD.seed,
    verify: Verify = True,
    verify_records: VerifyRecords = 200,
    tune: Tune = None,
    trials: Trials = _TUNING.trials,
    max_retain_drop: MaxRetainDrop = _TUNING.max_retain_drop,
    max_target_match: MaxTargetMatch = _TUNING.max_target_match,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw what was tried, as a PNG file.", envvar="CHIP_PLOT", show_default=False),
    ] = None,
    training_log: Annotated[
        Path | None,
        typer.Option(
            help="methods that train: also write the losses of each step, as JSON lines.", envvar="CHIP_TRAINING_LOG"
        ),
    ] = None,
    keep_last_good: Annotated[
        bool,
        typer.Option("--keep-last-good", help="methods that train: end with the last good state if it diverges."),
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Collect and solve, report, write nothing.")] = False,
    force: Force = False,
    link: Link = False,
    in_place: InPlace = False,
    sign: Sign = None,
    json: Json = False,
) -> None:
    """Forget nodes: solve for the change, write the edited checkpoint, show before and after."""
    settings = EditSettings(
        method=method,
        layers=layers,
        sites=sites,
        top_k=top_k,
        variance=variance,
        alpha=alpha,
        keys=keys,
        toward=toward,
        strength=strength,
        retain_budget=retain_budget,
        ridge=ridge,
        sibling_weight=sibling_weight,
        unknown_images=unknown_images,
        overshoot=overshoot,
        gain=gain,
        held=held,
        rounds=rounds,
        refresh=refresh,
        train=train,
        lora_rank=lora_rank,
        lora_share=lora_share,
        lora_targets=lora_targets,
        steps=steps,
        learning_rate=learning_rate,
        step_records=step_records,
        weight_decay=weight_decay,
        forget_weight=forget_weight,
        retain_weight=retain_weight,
        beta=beta,
        steering=steering,
        geometric_steps=geometric_steps,
        basis=basis,
        trust=trust,
        damping=damping,
        lexicon=lexicon,
        unlearning=unlearning,
        preserving=preserving,
        question_weight=question_weight,
        choices=choices,
        early_stop=early_stop,
        dp=dp,
        epsilon=epsilon,
        delta=delta,
        clip=clip,
        train_config=train_config,
        seed=seed,
        batch_size=batch_size,
    )
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
    from chip.workflow import EditRequest
    from chip.workflow.several import outcome_of, requests_for

    printer = Printer(json)
    request = EditRequest(
        model="",
        data=data,
        forget=tuple(forget),
        settings=settings,
        collecting=collecting,
        tuning=tuning,
        fixed=frozenset(name for name in vars(settings) if _given(context, name)),
        out=out,
        statistics=statistics,
        receipt=receipt,
        edit_out=edit_out,
        plot=plot,
        training_log=training_log,
        keep_last_good=keep_last_good,
        forgotten=tuple(forgotten or ()),
        forgotten_nodes=tuple(forgotten_node or ()),
        device=device,
        dtype=dtype,
        verify=verify,
        verify_records=verify_records,
        dry_run=dry_run,
        force=force,
        link=link,
        in_place=in_place,
        sign=sign,
    )
    requests = requests_for(request, model)
    if len(requests) == 1:
        plan, result = _carry_out(context, requests[0], printer)
        printer.result({"plan": plan.as_json(), **result.as_json()})
        return
    outcomes, results = [], []
    for one in requests:
        printer.line(f"{one.model}:", style="bold")
        try:
            plan, result = _carry_out(context, one, printer)
            results.append({"plan": plan.as_json(), **result.as_json()})
            outcomes.append(outcome_of(one, result))
        except ChipError as problem:
            outcomes.append(outcome_of(one, problem))
    printer.outcomes(outcomes)
    printer.result({"edits": results, "outcomes": [{**one.as_json(), "reason": one.reason} for one in outcomes]})
    if any(one.state == "failed" for one in outcomes):
        raise typer.Exit(1)


def _carry_out(context: typer.Context, request: "EditRequest", printer: "Printer") -> tuple["Plan", "EditResult"]:
    """Plan and carry out one edit, and print what there is to know."""
    from chip.workflow import carry_out, prepare_edit

    prepared, settings = prepare_edit(request), request.settings
    printer.plan(prepared.plan)
    for flag in (*_idle(context, settings), *_idle_files(request)):
        printer.line(f"note: {flag} has no effect with these settings of --method {settings.method}")
    result = carry_out(prepared, printer.track, printer.notice)
    if request.dry_run:
        printer.sites(result.sites)
    printer.left_alone(result.sites)
    if result.tuning is not None and result.tuning.halved:
        printer.trials(result.tuning, everything=request.dry_run)
    if result.rows:
        printer.scores(result.rows)
    if result.verdict is not None:
        printer.verdict(result.verdict)
        if not result.verdict.met and (note := _why_no_more(request, result)):
            printer.line(f"note: {note}")
    if result.out is not None:
        printer.line(f"written: {result.out}  (receipt: {result.receipt})")
        printer.proof(result.proof)
        printer.line("Do not publish the model before and after together: their difference shows what was removed.")
    return prepared.plan, result


def _given(context: typer.Context, name: str) -> bool:
    """Whether a setting was given on the command line, in the environment or in chip.toml."""
    return getattr(context.get_parameter_source(name), "name", "") in {"COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP"}


def _idle(context: typer.Context, settings: EditSettings) -> list[str]:
    """Flags given on the command line that do not bear on the method: said, so that nobody believes that they did."""
    given = (
        name for name in vars(settings) if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    )
    bearing = settings.bearing | {"batch_size"}
    return ["--" + name.replace("_", "-") for name in given if name not in bearing]


def _why_no_more(request: "EditRequest", result: "EditResult") -> str:
    """Why nothing else was tried for an edit that misses its goals; empty where something was, or nobody may wonder."""
    if request.settings.private and not request.searches:
        return "with differential privacy nothing else is tried without --tune, since each trial spends as much again"
    if result.tuning is None or result.tuning.searched or request.settings.method == "retrain":
        return ""
    return "you gave every setting that a search may change, so nothing else was tried"


def _idle_files(request: "EditRequest") -> list[str]:
    """Flags about what only other methods read, keep or do."""
    trains, stated = request.settings.trains, request.statistics is not None
    logs, keeps = request.training_log is not None, request.keep_last_good
    idle = {
        "--statistics": trains and stated,
        "--training-log": logs and not trains,
        "--keep-last-good": keeps and not trains,
    }
    return [flag for flag, given in idle.items() if given]
