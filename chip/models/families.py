"""The table of model families: where the layers, their MLP linears, the projector's linears and the tower's are.

A family is data (`families.json`): a language model, known by its own `model_type` wherever it stands; a vision tower
likewise; and what joins the two. Adding one is adding an entry and a test. Imports no torch.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from chip.errors import ChipError

_MLP_LINEAR = re.compile(r"^(?P<layers>.+)\.(?P<layer>\d+)\.(?P<linear>mlp\.(?:gate|up|down)_proj)$")
Role = Literal["language", "projector", "vision", "attention"]
VISION = {"visual", "vision_tower", "vision_model", "vision_encoder", "vision"}
_ORDER = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_ATTENTION = "self_attn.o_proj"
_EXPERTS = {"experts", "block_sparse_moe", "moe"}
_IMAGE_TOKEN = ("image_token_id", "image_token_index")


@dataclass(frozen=True)
class Inputs:
    """How the inputs of a family's records are laid out.

    `image_rows` says how many rows an image sends through the vision tower and the projector, relative to other images:
    how a tensor of the processor's is read (`product` of its last axis, `sum` of it, its `tiles` that are not all zero,
    or how many tiles it has when the image is processed `alone`), and its name; the number of image tokens where
    nothing is said. `per_token` names inputs that have one entry a token and further axes. `mixes`: whether a batch may
    hold records that show different numbers of images. `suffix`: the processor takes the answer apart from the prompt,
    which then sees all of itself.
    """

    image_rows: tuple[str, str] | None = None
    per_token: tuple[str, ...] = ()
    mixes: bool = True
    suffix: bool = False


@dataclass(frozen=True)
class Linear:
    """A linear by the name of its module; or a bare parameter (inputs, outputs), with the modules whose outputs are
    what it is multiplied with (`given`) and what comes of it (`output`). `after` is the layer of the tower behind which
    it stands, where that is not the last."""

    name: str
    given: str = ""
    output: str = ""
    after: int | None = None


@dataclass(frozen=True)
class Tower:
    """A vision tower: the module, its layer lists, the MLP linears within a layer in forward order, and how many rows
    at the start of every image (with tiles: of every tile) are no patch. `tile_mask` is the tower's input that tells
    which tiles are real."""

    module: str
    layers: tuple[str, ...]
    mlp: tuple[str, ...]
    leading: int = 0
    tile_mask: str = ""


@dataclass(frozen=True)
class Family:
    """Module names of one family.

    `layers` is the language model's layer list; `mlp` the linears within a layer in forward order, the last of which
    writes into the residual stream; `attention` the output projection of its self-attention. Layers that hold a module
    called `skip` hold no sites. `projector` lists the linears of the vision-language projector in forward order, the
    main projector's last one at the end (none for text-only models).
    `shares_prefix`: what stands before the question (template and images) is computed without a look at what follows,
    by attention alone; never where the language model was found by name only, since nobody has looked.
    `adds_output`: a layer adds what its last MLP linear puts out to the residual stream as it is, not normalised.
    `known` is False where the family was found by name only.
    """

    name: str
    layers: str
    mlp: tuple[str, ...]
    projector: tuple[Linear, ...] = ()
    attention: str | None = None
    skip: str | None = None
    tower: Tower | None = None
    shares_prefix: bool = False
    adds_output: bool = False
    inputs: Inputs = field(default_factory=Inputs)
    known: bool = True


def find_family(config: Any, modules: Iterable[str]) -> Family:
    """The family of a model by its config (transformers') and the names of its modules; an unknown one by names alone.

    Raises ChipError for a mixture of experts, and where nothing in the model is named like an MLP linear.
    """
    names, table = set(modules), family_table()
    refuse_experts(config.model_type, names)
    if config.model_type in table["text_families"]:
        stem = table["text_families"][config.model_type]
        return Family(config.model_type, **_language(config.model_type, stem, names), shares_prefix=True)
    if config.model_type in table["vision_families"]:
        return _vision_family(config, table["vision_families"][config.model_type], names)
    return Family(config.model_type, **language_by_name(config.model_type, names), known=False)


def image_token_id(config: Any) -> int | None:
    """The id of the token that stands for an image, by whichever name the config keeps it."""
    named = (getattr(config, name, None) for name in _IMAGE_TOKEN)
    return next((number for number in named if number is not None), None)


@cache
def family_table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = json.loads(files("chip.models").joinpath("families.json").read_text(encoding="utf-8"))
    return table


def refuse_experts(model_type: str, names: Collection[str]) -> None:
    """A token passes through some of the experts only: an edit of what all tokens pass would be half an edit."""
    for name in sorted(names):
        if not _EXPERTS.isdisjoint(name.split(".")):
            raise ChipError(f"{model_type!r} is a mixture of experts ({name}), which chip cannot edit")


def _vision_family(config: Any, entry: Mapping[str, Any], names: Collection[str]) -> Family:
    rows = entry.get("image_rows")
    return Family(
        config.model_type,
        **_language(config.text_config.model_type, entry["language"], names),
        projector=tuple(linear for one in entry["projector"] for linear in _linears(one, config.vision_config)),
        tower=_tower(config.vision_config.model_type, entry),
        shares_prefix=entry.get("shares_prefix", True)
        and find_entry("languages", config.text_config.model_type) is not None,
        inputs=Inputs(
            next(iter(rows.items())) if rows else None,
            tuple(entry.get("per_token", ())),
            entry.get("mixes", True),
            entry.get("suffix", False),
        ),
    )


def _language(model_type: str, stem: str, names: Collection[str]) -> dict[str, Any]:
    """Layer list, MLP linears and attention output of a language model that stands at `stem`."""
    entry = find_entry("languages", model_type)
    if entry is None:
        return language_by_name(model_type, [name for name in names if name.startswith(f"{stem}.")])
    return {
        "layers": f"{stem}.{entry['layers']}",
        "mlp": tuple(entry["mlp"]),
        "attention": entry["attention"],
        "skip": entry.get("skip"),
        "adds_output": not entry.get("normed", False),
    }


def _tower(model_type: str, family: Mapping[str, Any]) -> Tower | None:
    entry, stem = find_entry("towers", model_type), family["tower"]
    if entry is None:
        return None
    lists = tuple(f"{stem}.{layers}" for layers in entry["layers"])
    return Tower(stem, lists, tuple(entry["mlp"]), entry.get("leading", 0), family.get("tile_mask", ""))


def find_entry(table: str, model_type: str) -> Mapping[str, Any] | None:
    """An entry, or the one that it says it is the same as."""
    entries: Mapping[str, Any] = family_table()[table]
    entry: str | Mapping[str, Any] | None = entries.get(model_type)
    return find_entry(table, entry) if isinstance(entry, str) else entry


def _linears(entry: str | Mapping[str, Any], vision_config: Any) -> list[Linear]:
    """The linears of one entry of a projector: one, a bare parameter, or those of a list of modules, each of which
    stands behind a layer of the tower that the config names."""
    if isinstance(entry, str):
        return [Linear(entry)]
    if "parameter" in entry:
        return [Linear(entry["parameter"], entry["given"], entry["output"])]
    return [
        Linear(f"{entry['list']}.{number}.{linear}", after=after)
        for number, after in enumerate(getattr(vision_config, entry["after"]))
        for linear in entry["linears"]
    ]


def language_by_name(model_type: str, names: Collection[str]) -> dict[str, Any]:
    """Layer list, MLP linears and attention output of a language model that is found by the names of its modules."""
    matches = map(_MLP_LINEAR.match, names)
    found = [match for match in matches if match and VISION.isdisjoint(match["layers"].split("."))]
    stems = {match["layers"] for match in found if match["linear"] == _ORDER[-1]}
    if len(stems) != 1:
        several = f"several stacks of layers have an mlp.down_proj ({', '.join(sorted(stems))})"
        raise ChipError(
            f"the family {model_type!r} is not in chip's table, and its sites cannot be found by name: "
            f"{several if stems else 'no module is called *.mlp.down_proj'}"
        )
    layers = stems.pop()
    linears = {match["linear"] for match in found if match["layers"] == layers}
    attends = any(name.startswith(f"{layers}.") and name.endswith(f".{_ATTENTION}") for name in names)
    mlp = tuple(name for name in _ORDER if name in linears)
    return {"layers": layers, "mlp": mlp, "attention": _ATTENTION if attends else None}
