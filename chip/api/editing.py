"""Forgetting from Python: `chip.edit`, and `chip.Edit`, what it comes to."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, Unpack

import torch
from rich.console import Console
from transformers import PreTrainedModel

from chip.api.given import AnyModel, AnyRecords, checked_options, given_model, given_records, refuse_about_checkpoints
from chip.api.options import EditOptions
from chip.api.statistics import Statistics, kept_at
from chip.edit import Edit as Change
from chip.edit import load_edits, save_edits
from chip.errors import ChipError, UsageError
from chip.settings import EditSettings
from chip.solve.live import apply_live, kept_aside
from chip.workflow import EditRequest, EditResult, carry_out, prepare_edit
from chip.workflow.apply import ApplyRequest, carry_out_apply, prepare_apply
from chip.workflow.asking import Row
from chip.workflow.edit import carry_out_in_memory
from chip.workflow.export import export_adapter
from chip.workflow.table import scores
from chip.workflow.tune import Tuning, Verdict

_OF_CHECKPOINTS = (
    "out",
    "receipt",
    "edit_out",
    "force",
    "link",
    "sign",
    "device",
    "dtype",
    "plot",
    "training_log",
    "dry_run",
)
"""Options about a checkpoint that is read or written."""


@dataclass(frozen=True)
class Edit:
    """A change that makes a model forget: of a few tensors, low-rank, apart from where the weights live.

    It holds no name of what was forgotten; whoever has it beside the base model can read traces of that from it, so
    that it is as private as the records. `result`: how it came about, None of one that was read from a file.
    """

    changes: tuple[Change, ...] = field(repr=False)
    result: EditResult | None = field(default=None, repr=False)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read an edit file. Raises ChipError where it is none, or is damaged."""
        return cls(load_edits(Path(path)))

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the stored tensors that it changes, each once."""
        return tuple(dict.fromkeys(name for change in self.changes for name in change.tensors))

    @property
    def rows(self) -> tuple[Row, ...]:
        """The table of before and after, group by group; empty where nobody was asked."""
        return () if self.result is None else self.result.rows

    @property
    def verdict(self) -> Verdict | None:
        """Whether the goals were met, and on what; None where nobody was asked."""
        return None if self.result is None else self.result.verdict

    @property
    def tuning(self) -> Tuning | None:
        """The settings that were tried; None where none were to be chosen."""
        return None if self.result is None else self.result.tuning

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that was written; None where none was."""
        return None if self.result is None else self.result.out

    @property
    def receipt(self) -> Path | None:
        """The receipt beside that checkpoint; None where none was written."""
        return None if self.result is None else self.result.receipt

    def __str__(self) -> str:
        """The table, or how many tensors it changes."""
        if not self.rows:
            return f"an edit of {len(self.tensors)} tensors"
        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(scores(self.rows))
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def save(self, path: str | PathLike[str]) -> None:
        """Write an edit file, mode 0600, from which `chip apply` writes the same checkpoint at any later time."""
        save_edits(self.changes, Path(path))

    def write(
        self, model: str | PathLike[str], out: str | PathLike[str], *, transfer: bool = False, force: bool = False
    ) -> Path:
        """Write the checkpoint of `model` with this edit, proved as `chip apply` proves it; returns its receipt.

        transfer: derive the edit anew where the model has other weights, such as those of another epoch. Raises
        ChipError, with nothing written, where it does not fit.
        """
        with TemporaryDirectory(prefix="chip-edit-") as scratch:
            file = Path(scratch) / "edit.safetensors"
            self.save(file)
            request = ApplyRequest((Path(model),), (file,), Path(out), transfer=transfer, force=force)
            return carry_out_apply(request, prepare_apply(request))[0].receipt

    def export(self, directory: str | PathLike[str], *, base: str | PathLike[str] | None = None) -> None:
        """Write a PEFT adapter that does what this edit does. base: the checkpoint that it is for, which the adapter
        then names. Raises ChipError where peft cannot carry it."""
        with TemporaryDirectory(prefix="chip-edit-") as scratch:
            file = Path(scratch) / "edit.safetensors"
            self.save(file)
            export_adapter(file, Path(directory), base=None if base is None else Path(base))

    def apply(self, model: PreTrainedModel) -> None:
        """Change a loaded model for good, bit for bit as its checkpoint is changed. Raises ChipError, with the model as
        it was, where its weights are not bit for bit those that the edit was solved on: `write` changes checkpoints,
        and derives edits for other weights."""
        self._refuse_unlike(model)
        with kept_aside(model, self.changes, unless_done=True):
            for change in self.changes:
                apply_live(model, change)

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[None]:
        """A loaded model with this edit on it for a while; bit for bit as before on the way out. Raises ChipError as
        `apply` does."""
        self._refuse_unlike(model)
        with kept_aside(model, self.changes):
            self.apply(model)
            yield

    def _refuse_unlike(self, model: PreTrainedModel) -> None:
        """Raise ChipError where an edit was solved on another tensor than the model has, or than the edit before it
        leaves."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        now: dict[str, str] = {}
        for edit, change in [(one, change) for one in self.changes for change in one.changes]:
            name = change.parameter
            if name not in parameters:
                raise ChipError(f"the model has no parameter {name}, which the edit changes")
            found = now.get(name) or _digest(parameters[name])
            if found == edit.edited.get(change.tensor):
                raise ChipError(f"the model carries this edit already: {name} is as it leaves it")
            if found != edit.base[change.tensor]:
                raise ChipError(
                    f"the edit was solved on another {name} than this model's: it carries the edit already, has other "
                    "weights, or is loaded in another dtype than it is stored in; Edit.write changes checkpoints, and "
                    "with transfer=True those of other weights"
                )
            now[name] = edit.edited.get(change.tensor, "")


def edit(
    model: AnyModel,
    data: AnyRecords,
    forget: Sequence[str],
    *,
    out: str | PathLike[str] | None = None,
    processor: Any = None,
    levels: Sequence[str] | None = None,
    statistics: Statistics | str | PathLike[str] | None = None,
    settings: EditSettings | None = None,
    **options: Unpack[EditOptions],
) -> Edit:
    """Forget nodes; see `chip.edit`."""
    if isinstance(forget, str):
        raise UsageError(f"forget is a list of nodes: give [{forget!r}]")
    refuse_about_checkpoints(model, {**options, **({} if out is None else {"out": out})}, _OF_CHECKPOINTS)
    with given_model(model, processor) as where, given_records(data, levels) as records, kept_at(statistics) as kept:
        request = _request(where.directory, records.directory, forget, settings, {**options})
        request = replace(request, out=None if out is None else Path(out), statistics=kept)
        if where.loaded is None:
            return _made(carry_out(prepare_edit(request, records=records.hierarchy)))
        dry = replace(request, dry_run=True, in_place=False)
        made = _made(carry_out_in_memory(prepare_edit(dry, model=where.loaded, records=records.hierarchy)))
        if request.in_place:
            made.apply(where.loaded.model)
        return made


def _made(result: EditResult) -> Edit:
    assert result.change is not None
    return Edit((result.change,), result)


def _request(
    model: str, data: Path, forget: Sequence[str], settings: EditSettings | None, options: dict[str, Any]
) -> EditRequest:
    options = checked_options(options, EditOptions)
    names = frozenset(one.name for one in fields(EditSettings))
    given = {name: options.pop(name) for name in sorted(names & set(options))}
    return EditRequest(
        model,
        data,
        tuple(forget),
        replace(settings or EditSettings(), **given),
        fixed=frozenset(given) if settings is None else names,
        **options,
    )


def _digest(parameter: torch.Tensor) -> str:
    """SHA-256 of a parameter's bytes, as its checkpoint stores them."""
    held = parameter.detach().to("cpu").contiguous()
    return hashlib.sha256(held.view(torch.uint8).numpy().tobytes()).hexdigest()
