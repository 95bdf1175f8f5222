"""The attacks of an audit, one module each, in the order in which they are made and reported."""

from chip.audit.attacks import (
    image,
    inspection,
    membership,
    prefill,
    quantisation,
    reconstruction,
    relearning,
    rephrasing,
)
from chip.audit.subject import Attack

ATTACKS: dict[str, Attack] = {
    one.name: one
    for one in (
        rephrasing.ATTACK,
        image.ATTACK,
        membership.ATTACK,
        reconstruction.ATTACK,
        prefill.ATTACK,
        relearning.ATTACK,
        quantisation.ATTACK,
        inspection.ATTACK,
    )
}
"""Every attack by its name. A new one is a module with an `ATTACK`, and an entry here."""

__all__ = ["ATTACKS"]
