"""What can be read from the difference of two models: which records excite it.

An edit is made of the target's own activations, so that whoever holds the model before and after can look for inputs on
which the difference is large. Here the attacker is given the candidates: the target's records and others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from chip.audit.subject import Subject
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.naming import find_stored
from chip.models.prompts import Encoded
from chip.models.sites import Site, Watcher

_ROLES = ("language", "attention")


def differing_sites(subject: Subject) -> dict[Site, Tensor]:
    """Of every language site whose weight differs from the model before, the difference (D, d), in the model's dtype:
    they are all in memory at once."""
    model = subject.loaded.model
    found = {}
    for site in (one for one in subject.loaded.sites if one.role in _ROLES):
        weight = site.weight(model).detach().float()
        added = weight - _stored(subject.base, site, weight)
        if bool(added.any()):
            found[site] = added.to(site.weight(model).dtype)
    return found


def excitations(subject: Subject, sites: dict[Site, Tensor], records: Sequence[Record]) -> list[float]:
    """Of each record, the mean over the sites of ‖Δ x‖² ÷ ‖y‖², each summed over the answer positions: x is what enters
    a site, y what leaves it, and Δ the difference."""
    model = subject.loaded.model
    excited: dict[Site, tuple[float, float]] = {}
    place = slice(0, 0)

    def watcher(site: Site) -> Watcher:
        def watch(given: Tensor, output: Tensor) -> None:
            added = given[0, place].float() @ sites[site].float().T
            excited[site] = _square(added), _square(output[0, place].float())

        return watch

    watched = [site.watch(model, watcher(site)) for site in sites]
    found = []
    try:
        for encoded in subject.tracked(subject.loaded.prompts.encode_all(records), "what excites the difference"):
            place = slice(encoded.answer_start - 1, len(encoded) - 1)
            _pass(subject, encoded)
            found.append(sum(added / max(own, 1e-12) for added, own in excited.values()) / len(excited))
    finally:
        for one in watched:
            one.remove()
    return found


def _stored(base: Checkpoint, site: Site, weight: Tensor) -> Tensor:
    """The weight of the model before, as (D, d)."""
    outputs, inputs = weight.shape
    shape = (inputs, outputs) if site.transposed else (outputs, inputs)
    stored = torch.from_numpy(find_stored(base, site.parameter, shape).read().astype("float32"))
    return (stored.T if site.transposed else stored).to(weight.device)


def _pass(subject: Subject, encoded: Encoded) -> None:
    batch = subject.loaded.prompts.collate([encoded], subject.loaded.device)
    with torch.no_grad():
        subject.loaded.model(**batch.inputs, use_cache=False)


def _square(values: Tensor) -> float:
    return float(values.square().sum())
