"""The methods as a user would type them, and what they change."""

from pathlib import Path

from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model

METHODS = {
    "counterpart (default)": "--method counterpart",
    "oblique": "--method oblique",
    "chip, paper's settings": "--method chip --top-k 10 --variance 0.95 --no-tune",
    "chip, all layers": "--method chip --layers 0-{last}",
    "duolearn, ε = 4 each trial": "--method duolearn --geometric-steps 10 --steps 30 --tune",
    "duolearn, without privacy": "--method duolearn --no-dp",
    "ga": "--method ga",
    "graddiff": "--method graddiff",
    "kl": "--method kl",
    "npo": "--method npo",
    "simnpo": "--method simnpo",
    "rmu": "--method rmu",
    "idk": "--method idk",
}
"""By name, the flags of `chip edit`: what is given here no search changes. `{last}` is the number of the last layer."""


def changed(before: Path, after: Path) -> int:
    """How many parameters of two checkpoints differ."""
    old, new = (dict(load_model(Checkpoint(one), "cpu").model.named_parameters()) for one in (before, after))
    return sum(int((old[name] != parameter).sum()) for name, parameter in new.items())
