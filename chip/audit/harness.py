"""What else a model can do, by tasks of the Language Model Evaluation Harness, where that is installed.

Tasks and their data are the user's own or in the local cache: nothing is downloaded. Images are not shown.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from chip.errors import ChipError
from chip.models.loading import LoadedModel

Results = dict[str, dict[str, float]]
"""By task, then by the harness's name for a metric and its filter."""


def refuse_without_harness() -> None:
    """Raise ChipError where the harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ChipError("--lm-eval needs the Language Model Evaluation Harness: pip install lm-eval, or leave it out")


def evaluate(loaded: LoadedModel, tasks: Sequence[str], directory: Path | None, batch_size: int) -> Results:
    """A model's results. directory: where tasks of the user's own are described, beside those of the harness.

    Raises ChipError where a task is unknown or its data are not there.
    """
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if directory is None else str(directory))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise ChipError(f"--lm-eval {unknown[0]}: the harness knows no such task; --lm-eval-tasks names a directory")
    model = HFLM(pretrained=loaded.model, backend="causal", tokenizer=loaded.prompts.tokenizer, batch_size=batch_size)
    try:
        found = simple_evaluate(model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, verbosity="ERROR")
    except (OSError, ValueError) as problem:
        raise ChipError(f"the harness could not evaluate {', '.join(tasks)}: {problem}") from problem
    return {
        task: {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        for task, metrics in found["results"].items()
    }
