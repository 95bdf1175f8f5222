"""Models and records as a caller in Python gives them: by their directories, or as objects that are there already."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_type_hints

from PIL.Image import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from chip.errors import ChipError, UsageError
from chip.hierarchy import Hierarchy, Record
from chip.images import DAMAGED
from chip.models.loading import LoadedModel, adopted
from chip.records.jsonl import DEFAULT_LEVELS, Place, checked_levels, parse_record, refuse_many_images
from chip.settings import CollectSettings, TuningSettings

AnyModel = str | PathLike[str] | PreTrainedModel
"""A checkpoint's directory (or a hub id in the local cache), or a loaded model."""

AnyRecords = str | PathLike[str] | Sequence[Record | Mapping[str, Any]]
"""A data directory, or its records: each as `Record`, or as an object of the records format, in which an image may be
a path or an opened `PIL.Image.Image`."""

IN_MEMORY = Path("records in memory")
_PATHS = {"receipt", "edit_out", "plot", "training_log", "sign", "lexicon", "nonmembers", "utility", "harness_tasks"}
_SETTINGS = {"tuning": TuningSettings, "collecting": CollectSettings, "settings": CollectSettings}
_SEVERAL = {"forgotten", "forgotten_nodes", "attacks", "compare", "harness"}


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
    if not isinstance(processor, ProcessorMixin | PreTrainedTokenizerBase):
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


def _refuse_no_list(value: object, said: str) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UsageError(f"{said}, not {type(value).__name__}")


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
    _refuse_no_list(data, "records are a data directory or a list of them")
    _refuse_no_list(levels or (), "levels are a list of names, from the root down")
    with TemporaryDirectory(prefix="chip-images-") as scratch:
        names, shown = checked_levels(list(levels or DEFAULT_LEVELS), "levels"), _Shown(Path(scratch))
        records = [_record(one, Place(IN_MEMORY, line), names, shown) for line, one in enumerate(data, 1)]
        if not records:
            raise ChipError("the list holds no records")
        yield GivenRecords(IN_MEMORY, Hierarchy(names, records))


def checked_options(options: Mapping[str, Any], known: type) -> dict[str, Any]:
    """Options as requests hold them: what names a file as a path, what is given as a list as a tuple.

    known: the TypedDict of what there is. Raises UsageError for anything else, with what may have been meant.
    """
    names = get_type_hints(known)
    for name in sorted(options.keys() - names.keys()):
        for keyword, settings in _SETTINGS.items():
            if keyword in names and name in get_type_hints(settings):
                kind = settings.__name__
                raise UsageError(f"{name!r} is a field of {kind}: give {keyword}={kind}({name}=…)")
        near = get_close_matches(name, names, 1)
        raise UsageError(f"no keyword is called {name!r}{f'; did you mean {near[0]}?' if near else ''}")
    found = dict(options)
    for name in _PATHS & found.keys():
        found[name] = None if found[name] is None else Path(found[name])
    for name in _SEVERAL & found.keys():
        if isinstance(found[name], str | PathLike):
            raise UsageError(f"{name} takes several: give [{found[name]!r}]")
        made: Callable[[Any], object] = Path if name == "forgotten" else fspath
        found[name] = None if found[name] is None else tuple(map(made, found[name]))
    if found.get("gold") is not None:
        found["gold"] = fspath(found["gold"])
    return found


def refuse_about_checkpoints(model: AnyModel, options: Mapping[str, Any], about: Sequence[str]) -> None:
    """Raise UsageError where an option is about a checkpoint that is read or written and the model is a loaded one."""
    named = [name for name in about if name in options and isinstance(model, PreTrainedModel)]
    if named:
        raise UsageError(
            f"{named[0]} is about a checkpoint, and the model is a loaded one; Edit.save keeps the edit, Edit.apply "
            "changes the model, and its own save_pretrained keeps that"
        )


class _Shown:
    """The images that records show; of one that was given opened, a PNG file, the same wherever it is shown."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._kept: dict[int, Path] = {}

    def path(self, image: object, at: Place) -> Path:
        """Where an image is. The caller names it, so that it may lie anywhere. Raises `at.error`."""
        if isinstance(image, Image):
            return self._kept.get(id(image)) or self._keep(image, at)
        if not isinstance(image, str | PathLike):
            raise at.error(f"an image is a path or a PIL.Image.Image, not {type(image).__name__}")
        try:
            there = Path(image).is_file()
        except (OSError, ValueError) as problem:
            raise at.error(f"an image's path cannot be that of a file ({type(problem).__name__})") from problem
        if not there:
            raise at.error(f"the image {fspath(image)} is not there")
        return Path(image).resolve()

    def _keep(self, image: Image, at: Place) -> Path:
        path = self._scratch / f"{len(self._kept)}.png"
        try:
            image.convert("RGB").save(path)
        except DAMAGED as problem:
            raise at.error(f"an image cannot be read ({problem})") from problem
        self._kept[id(image)] = path
        return path


def _record(one: object, at: Place, levels: tuple[str, ...], shown: _Shown) -> Record:
    value = _as_object(one) if isinstance(one, Record) else one
    if not isinstance(value, Mapping):
        raise at.error(f"a record is a chip.Record or a mapping, not {type(value).__name__}")
    single, several = value.get("image"), value.get("images")
    if single is not None and several is not None:
        raise at.error('has both "image" and "images"; keep one of them')
    named = several if several is not None else [] if single is None else [single]
    if not isinstance(named, list | tuple):
        raise at.error(f'"images" is a list, not {type(named).__name__}')
    refuse_many_images(len(named), at)
    if named and value.get("text") is not None:
        raise at.error("a document shows no image; make it a question and an answer")
    bare = {name: one for name, one in value.items() if name not in ("image", "images")}
    if isinstance(bare.get("path"), tuple):
        bare["path"] = list(bare["path"])
    images = tuple(shown.path(image, at) for image in named)
    return replace(parse_record(bare, at, Path(), levels), images=images)


def _as_object(record: Record) -> dict[str, Any]:
    """A record as an object of the records format."""
    said = {"question": record.question, "answer": record.answer} if record.text is None else {"text": record.text}
    return {
        **said,
        "path": record.path,
        "images": record.images,
        "paraphrases": list(record.paraphrases),
        "translations": dict(record.translations),
        "options": list(record.options) or None,
    }


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
