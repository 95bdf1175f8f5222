"""The options that several verbs share, spelled once."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def one_of(*names: str) -> Callable[[str], list[str]]:
    """What a shell completes a value to: those of the names that begin like it."""

    def completions(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return completions


ModelArgument = Annotated[
    str, typer.Argument(help="Directory of the model, or a hub id in the local cache.", show_default=False)
]
Models = Annotated[
    list[str],
    typer.Argument(
        help="Directory of the model, or a hub id in the local cache; several, or a folder of them, are edited alike.",
        show_default=False,
    ),
]
Data = Annotated[Path, typer.Option(help="Data directory with records.jsonl.", envvar="CHIP_DATA", show_default=False)]
Forget = Annotated[
    list[str],
    typer.Option(help="Node to forget, by name or path; may be repeated.", envvar="CHIP_FORGET", show_default=False),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:1 …, or spread over all GPUs.",
        envvar="CHIP_DEVICE",
        autocompletion=one_of("auto", "cpu", "cuda", "mps", "spread"),
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16.",
        envvar="CHIP_DTYPE",
        autocompletion=one_of("auto", "float32", "bfloat16", "float16"),
    ),
]
BatchSize = Annotated[int, typer.Option(help="Records asked at once.", envvar="CHIP_BATCH_SIZE")]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens a forward pass in collecting; by default as many as help and fit, 1536 on a CPU.",
        envvar="CHIP_BATCH_TOKENS",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that decode images ahead of the model; by default few on a CPU, up to 8 beside a GPU.",
        envvar="CHIP_WORKERS",
    ),
]
StatisticsMemory = Annotated[
    float | None,
    typer.Option(
        help="GiB that second moments may take before they are sketched; a quarter of free memory by default.",
        envvar="CHIP_STATISTICS_MEMORY",
    ),
]
MaxRecordsPerNode = Annotated[
    int | None,
    typer.Option(
        help="Count at most so many records of a node: always the same ones, whatever their order.",
        envvar="CHIP_MAX_RECORDS_PER_NODE",
    ),
]
SaveEvery = Annotated[
    float,
    typer.Option(
        help="Seconds between two times that progress is kept; 0: as often as a twentieth of the time allows.",
        envvar="CHIP_SAVE_EVERY",
    ),
]
Seed = Annotated[int, typer.Option(help="Draws whatever is drawn.", envvar="CHIP_SEED")]
Alpha = Annotated[float, typer.Option(help="chip: weight of image tokens in a pooled activation.", envvar="CHIP_ALPHA")]
InPlace = Annotated[
    bool, typer.Option("--in-place", help="Write over the model itself, under a journal that can put it back.")
]
Link = Annotated[bool, typer.Option("--link", help="Files that are not edited become hard links to the model's own.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists and is a checkpoint.")]
Receipt = Annotated[
    Path | None,
    typer.Option(help="Receipt; OUT.receipt.json by default.", envvar="CHIP_RECEIPT", show_default=False),
]
Sign = Annotated[
    Path | None,
    typer.Option(help="Ed25519 private key (PEM) that signs the receipt.", envvar="CHIP_SIGN", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
VerifyRecords = Annotated[
    int,
    typer.Option(help="Retained records asked per group; the target is asked in full.", envvar="CHIP_VERIFY_RECORDS"),
]
Verify = Annotated[bool, typer.Option("--verify/--no-verify", help="Ask the model before and after.")]
Tune = Annotated[
    bool | None,
    typer.Option(
        "--tune/--no-tune",
        help="Search settings that you did not give; by default where the first edit misses its goals.",
        envvar="CHIP_TUNE",
        show_default=False,
    ),
]
Trials = Annotated[int, typer.Option(help="Edits tried at most.", envvar="CHIP_TRIALS")]
MaxRetainDrop = Annotated[
    float, typer.Option(help="Goal: exact match that the retained records may lose.", envvar="CHIP_MAX_RETAIN_DROP")
]
MaxTargetMatch = Annotated[
    float, typer.Option(help="Goal: exact match that the target may keep.", envvar="CHIP_MAX_TARGET_MATCH")
]
Statistics = Annotated[
    Path | None,
    typer.Option(help="Statistics file, reused or made; beside the output by default.", envvar="CHIP_STATISTICS"),
]
Forgotten = Annotated[
    list[Path] | None,
    typer.Option(
        help="Ledger or receipt that tells what MODEL has forgotten before; that never counts as retained.",
        envvar="CHIP_FORGOTTEN",
        show_default=False,
    ),
]
ForgottenNode = Annotated[
    list[str] | None,
    typer.Option(
        help="Node that MODEL has forgotten before, by name or path.", envvar="CHIP_FORGOTTEN_NODE", show_default=False
    ),
]
Lexicon = Annotated[
    Path | None,
    typer.Option(help="Lexicon of concepts (JSON); chip's own by default.", envvar="CHIP_LEXICON", show_default=False),
]
JudgeEndpoint = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="OpenAI-compatible endpoint on this machine that marks factuality; it is shown the records. None by "
        "default.",
        envvar="CHIP_JUDGE",
        show_default=False,
    ),
]
JudgeModel = Annotated[str, typer.Option(help="What the judge's endpoint shall use.", envvar="CHIP_JUDGE_MODEL")]
AllowRemoteJudge = Annotated[
    bool, typer.Option("--allow-remote-judge", help="Let records go to a judge on another machine.")
]


def quiet_libraries() -> None:
    """Keep transformers, torch and the hub from talking or reaching for the network."""
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
