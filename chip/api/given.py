"""Models and records as a caller in Python gives them: by their directories, or as objects that are there already."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL.Image import Image
from transformers import PreTrainedModel
from transformers.utils import logging

from chip.errors import ChipError, UsageError
from chip.hierarchy import Hierarchy, Record
from chip.models.loading import LoadedModel, adopted
from chip.records.jsonl import DEFAULT_LEVELS, Place, parse_record

AnyModel = str | PathLike[str] | PreTrainedModel
"""A checkpoint's directory (or a hub id in the local cache), or a loaded model."""

AnyRecords = str | PathLike[str] | Sequence[Record | Mapping[str, Any]]
"""A data directory, or its records: each as `Record`, or as an object of the records format, in which an image may be
a path or an opened `PIL.Image.Image`."""

IN_MEMORY = Path("records in memory")


@dataclass(frozen=True)
class GivenModel:
    """Where a model's checkpoint is, and the model itself where it was given loaded."""

    directory: str
    loaded: LoadedModel | None = None


@dataclass(frozen=True)
class GivenRecords:
    """Where records are, and the records themselves where these were given."""

    directory: Path
    hierarchy: Hierarchy | None = None


@contextmanager
def given_model(model: AnyModel, processor: Any) -> Iterator[GivenModel]:
    """A model for as long as work on it goes on. One that is loaded is saved to a temporary directory as
    `save_pretrained` does, so that statistics and edits know its tensors by the names and digests of its checkpoint;
    it is set to evaluation while the work lasts."""
    _refuse_other(model)
    if not isinstance(model, PreTrainedModel):
        yield GivenModel(fspath(model))
        return
    if processor is None:
        raise UsageError("a loaded model needs its processor (or its tokenizer) beside it: give processor=")
    loaded = adopted(model, processor)
    with TemporaryDirectory(prefix="chip-model-") as scratch, _evaluating(model):
        with _without_bars():
            model.save_pretrained(scratch)
            processor.save_pretrained(scratch)
        yield GivenModel(scratch, loaded)


def _refuse_other(model: object) -> None:
    if not isinstance(model, PreTrainedModel | str | PathLike):
        kind = type(model).__name__
        raise UsageError(f"a model is a directory or a PreTrainedModel, not {kind}; merge an adapter first")


@contextmanager
def given_records(data: AnyRecords, levels: Sequence[str] | None) -> Iterator[GivenRecords]:
    """Records for as long as work on them goes on; images that were given opened are kept as PNG files meanwhile.

    Raises ChipError, naming a record by its place in the list, from 1, where one is malformed.
    """
    if isinstance(data, str | PathLike):
        if levels is not None:
            raise UsageError("levels stand in a data directory's dataset.json; give them with a list of records alone")
        yield GivenRecords(Path(data))
        return
    with TemporaryDirectory(prefix="chip-images-") as scratch:
        names = tuple(levels or DEFAULT_LEVELS)
        records = [_record(one, Place(IN_MEMORY, line), names, Path(scratch)) for line, one in enumerate(data, 1)]
        if not records:
            raise ChipError("the list holds no records")
        yield GivenRecords(IN_MEMORY, Hierarchy(names, records))


def _record(one: Record | Mapping[str, Any], at: Place, levels: tuple[str, ...], scratch: Path) -> Record:
    if isinstance(one, Record):
        value: Mapping[str, Any] = {
            "path": list(one.path),
            **({"text": one.text} if one.text is not None else {"question": one.question, "answer": one.answer}),
            "images": list(one.images),
            "paraphrases": list(one.paraphrases),
            "translations": dict(one.translations),
            **({"options": list(one.options)} if one.options else {}),
        }
        return _record(value, at, levels, scratch)
    if not isinstance(one, Mapping):
        raise at.error(f"a record is a chip.Record or a mapping, not {type(one).__name__}")
    if one.get("image") is not None and one.get("images"):
        raise at.error('has both "image" and "images"; keep one of them')
    shown = one.get("images") or [one.get("image")]
    images = tuple(_image(image, number, at, scratch) for number, image in enumerate(shown) if image is not None)
    if images and one.get("text") is not None:
        raise at.error("a document shows no image; make it a question and an answer")
    bare = {name: value for name, value in one.items() if name not in ("image", "images")}
    return replace(parse_record({**bare, "path": list(one.get("path") or ())}, at, scratch, levels), images=images)


def _image(image: object, number: int, at: Place, scratch: Path) -> Path:
    """Where an image is; the caller names it, so that it may lie anywhere."""
    if isinstance(image, Image):
        kept = scratch / f"{at.line}-{number}.png"
        image.convert("RGB").save(kept)
        return kept
    if not isinstance(image, str | PathLike):
        raise at.error(f"an image is a path or a PIL.Image.Image, not {type(image).__name__}")
    path = Path(image)
    if not path.is_file():
        raise at.error(f"the image {path} is not there")
    return path.resolve()


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode; on the way out each module trains again that did."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of transformers' for a while: what is saved is chip's concern, not the caller's."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
