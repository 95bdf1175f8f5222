"""What else a model can do, by tasks of the Language Model Evaluation Harness, where that is installed.

Tasks and their data are the user's own or in the local cache: nothing is downloaded. Images are not shown.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chip.errors import ChipError
from chip.models.loading import LoadedModel

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

Results = dict[str, dict[str, float]]
"""By task, then by the harness's name for a metric and its filter."""


def refuse_unready(tasks: Sequence[str], directory: Path | None) -> None:
    """Raise ChipError, before a model is asked anything, where the harness is not installed or a task is unknown."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ChipError("--lm-eval needs the Language Model Evaluation Harness: pip install lm-eval, or leave it out")
    known = _manager(directory).all_tasks
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise ChipError(f"--lm-eval {unknown[0]}: the harness knows no such task; --lm-eval-tasks names a directory")


def evaluate(loaded: LoadedModel, task: str, directory: Path | None, batch_size: int) -> Results:
    """A model's results on a task and its parts. directory: where tasks of the user's own are described.

    Raises ChipError where the task's data or metrics are not there.
    """
    manager = _manager(directory)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=loaded.model, backend="causal", tokenizer=loaded.prompts.tokenizer, batch_size=batch_size)
    try:
        found = simple_evaluate(model, tasks=[task], task_manager=manager, bootstrap_iters=0, verbosity="ERROR")
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise ChipError(f"the harness could not evaluate {task}: {problem}") from problem
    return {
        name: {metric: float(value) for metric, value in metrics.items() if isinstance(value, int | float)}
        for name, metrics in found["results"].items()
    }


def _manager(directory: Path | None) -> "TaskManager":
    """The harness's tasks and the user's own. Nothing that it loads may reach for the network from here on."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        os.environ[name] = "1"
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=None if directory is None else str(directory))
