"""Forward passes, and what flows through the watched sites handed to their watchers.

A pass ends at the last site that anybody watches: nothing after it is computed, the logits least of all. What the
leading tokens of a prefix pass leave in the attention's cache, suffix passes continue from (`chip.collect.layout`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from chip.collect.grouping import EncodedGroup
from chip.collect.layout import Pass, PrefixPass, SuffixPass, lay_out
from chip.models.loading import LoadedModel
from chip.models.sites import Site, Watcher

SEEING = ("projector", "vision")
"""The roles that are reached by passes with images only."""


@dataclass
class Prefixes:
    """What a prefix pass leaves behind: keys and values by layer, (G, heads, P, width), in `cache`.

    `offsets` (G,) is how far the positions run ahead of the tokens' numbers, in families that give an image's tokens
    two-dimensional positions; None in all others.
    """

    cache: DynamicCache = field(default_factory=DynamicCache)
    offsets: Tensor | None = None

    def of_rows(self, rows: Sequence[int], device: torch.device) -> DynamicCache:
        """The cache for a batch whose rows follow the prefixes `rows`; this one stays as it is."""
        index = torch.tensor(rows, device=device)
        chosen = copy(self.cache)
        chosen.layers = []
        for held in cast(list[DynamicLayer], self.cache.layers):
            layer = copy(held)
            if layer.keys is not None and list(rows) != list(range(len(layer.keys))):
                layer.batch_select_indices(index.to(layer.keys.device))
            chosen.layers.append(layer)
        return chosen


class _PassedLastSite(Exception):
    """Ends a forward pass from within a hook."""


def run_chunk(
    loaded: LoadedModel,
    groups: Sequence[EncodedGroup],
    batch_tokens: int,
    sites: Collection[Site],
    watch: Callable[[Site, Pass], Watcher | None],
) -> None:
    """Run groups in passes of at most so many tokens; `watch` says who looks at a site during a pass, if anybody."""
    prefixes = Prefixes()
    for one in lay_out(groups, loaded.prompts, loaded.device, batch_tokens, loaded.longest_together):
        watches = {site: found for site in sites if (found := watch(site, one)) is not None}
        if isinstance(one, PrefixPass):
            # The suffixes need the keys and values of every layer up to the last that anybody watches.
            layers = [site.layer for site in sites if site.role not in SEEING]
            if layers:
                last = next(s for s in loaded.sites if s.role not in SEEING and s.layer == max(layers))
                watches.setdefault(last, _nothing)
            prefixes = _run_prefix(loaded, one, watches)
        elif isinstance(one, SuffixPass):
            _run_suffix(loaded, one, prefixes, watches)
        else:
            _run(loaded, one.inputs, watches, images=one.images is not None)


def _run_prefix(loaded: LoadedModel, prefix: PrefixPass, watches: Mapping[Site, Watcher]) -> Prefixes:
    """Run the tokens that several records share, and keep what their continuations need."""
    left = Prefixes()
    # Families with two-dimensional positions note here what the last images that they saw did to them.
    notes: Any = loaded.model.base_model
    if hasattr(notes, "rope_deltas"):
        notes.rope_deltas = None
    _run(loaded, prefix.inputs, watches, images=prefix.images is not None, cache=left.cache)
    offsets = getattr(notes, "rope_deltas", None)
    left.offsets = None if offsets is None else offsets.flatten()
    return left


def _run_suffix(loaded: LoadedModel, suffix: SuffixPass, prefixes: Prefixes, watches: Mapping[Site, Watcher]) -> None:
    """Run what follows the prefixes, each row from a copy of its own prefix's keys and values."""
    positions, visible = suffix.inputs["position_ids"], suffix.inputs["attention_mask"]
    if prefixes.offsets is not None:
        # A row of positions for each of time, height and width, which are the same for text.
        positions = (positions + prefixes.offsets[list(suffix.rows), None]).expand(3, -1, -1)
    hidden = torch.zeros(visible.shape, dtype=loaded.dtype, device=visible.device)
    mask = hidden.masked_fill_(~visible, torch.finfo(loaded.dtype).min)
    inputs = {"input_ids": suffix.inputs["input_ids"], "position_ids": positions, "attention_mask": mask}
    _run(loaded, inputs, watches, images=False, cache=prefixes.of_rows(suffix.rows, positions.device))


def _run(
    loaded: LoadedModel,
    inputs: Mapping[str, Tensor],
    watches: Mapping[Site, Watcher],
    *,
    images: bool,
    cache: DynamicCache | None = None,
) -> None:
    """Run the model as far as the last watched site that it reaches; `images` says whether the inputs show any."""
    reached = [site for site in loaded.sites if site in watches and (images or site.role not in SEEING)]
    if not reached:
        return
    hooks = []
    try:
        for site in reached:
            watch = watches[site]
            hooks.append(site.watch(loaded.model, _ending(watch) if site is reached[-1] else watch))
        with torch.no_grad():
            loaded.model(**inputs, use_cache=cache is not None, past_key_values=cache)
    except _PassedLastSite:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def _nothing(given: Tensor, output: Tensor) -> None:
    """Watch a site only so that a pass runs as far."""


def _ending(watch: Watcher) -> Watcher:
    def watched(given: Tensor, output: Tensor) -> None:
        watch(given, output)
        raise _PassedLastSite

    return watched
