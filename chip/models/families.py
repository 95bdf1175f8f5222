"""The table of model families: where the language layers, their MLP linears and the projector's linears are.

A family is data (`families.json`), keyed by the config's `model_type`; adding one is adding an entry and a test.
Imports no torch.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from chip.errors import ChipError

_MLP_LINEAR = re.compile(r"^(?P<layers>.+)\.(?P<layer>\d+)\.(?P<linear>mlp\.(?:gate|up|down)_proj)$")
_VISION = {"visual", "vision_tower", "vision_model", "vision_encoder", "vision"}
_ORDER = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Family:
    """Module names of one family: `layers` is the language model's layer list, `mlp` the linears within a layer.

    `projector` lists the linears of the vision-language projector in forward order (none for text-only models);
    the rows that pass through them are the image tokens of the batch, in order. `known` is False where the family
    was found by name only.
    """

    name: str
    layers: str
    mlp: tuple[str, ...]
    projector: tuple[str, ...]
    known: bool = True


def find_family(model_type: str, modules: Iterable[str]) -> Family:
    """The family of a `model_type`; an unknown one is found by the names of its modules.

    Raises ChipError where nothing in the model is named like an MLP linear.
    """
    table = json.loads(files("chip.models").joinpath("families.json").read_text(encoding="utf-8"))
    if model_type in table:
        entry = table[model_type]
        return Family(model_type, entry["layers"], tuple(entry["mlp"]), tuple(entry["projector"]))
    found = [
        match for match in map(_MLP_LINEAR.match, modules) if match and _VISION.isdisjoint(match["layers"].split("."))
    ]
    stems = {match["layers"] for match in found}
    if len(stems) != 1:
        described = "no module" if not stems else f"several stacks of layers ({', '.join(sorted(stems))})"
        raise ChipError(
            f"the family {model_type!r} is not in chip's table, and its sites cannot be found by name: "
            f"{described} called *.mlp.gate_proj, up_proj or down_proj"
        )
    linears = {match["linear"] for match in found}
    return Family(model_type, stems.pop(), tuple(name for name in _ORDER if name in linears), (), known=False)
