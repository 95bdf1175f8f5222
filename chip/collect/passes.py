"""One pass of the model over a batch, with what flows through the watched sites handed to their watchers.

The pass ends at the last watched site: nothing after it is computed, the logits least of all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from einops import rearrange
from torch import Tensor, nn

from chip.errors import ChipError
from chip.models.loading import LoadedModel
from chip.models.prompts import Batch
from chip.models.sites import Site
from chip.progress import Item

Watch = Callable[[Tensor, Tensor], None]
"""Takes a site's input and output: (B, S, d) and (B, S, D) at language sites, (R, d) and (R, D) at projector sites,
where R counts the image tokens of the batch in order."""


class _PassedLastSite(Exception):
    """Ends a forward pass from within a hook."""


def run(loaded: LoadedModel, batch: Batch, watches: Mapping[Site, Watch]) -> None:
    """Run the model on a batch as far as the last watched site that it reaches."""
    sites = sorted(watches, key=loaded.sites.index)
    tokens = int(batch.image.sum())
    reached = [site for site in sites if site.role == "language" or tokens]
    if not reached:
        return
    hooks = [
        site.module(loaded.model).register_forward_hook(_hook(site, watches[site], tokens, last=site is reached[-1]))
        for site in reached
    ]
    try:
        with torch.no_grad(), enough_memory():
            loaded.model(**batch.inputs, use_cache=False)
    except _PassedLastSite:
        pass
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turns an accelerator's running out of memory into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise ChipError("the accelerator ran out of memory; give a smaller --batch-size") from problem


def _hook(
    site: Site, watch: Watch, tokens: int, *, last: bool
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given = inputs[0]
        if site.role == "projector":
            given, output = (rearrange(rows, "... width -> (...) width") for rows in (given, output))
            if output.shape[0] != tokens:
                raise ChipError(
                    f"{output.shape[0]} rows pass through {site.name}, but the batch has {tokens} image tokens"
                )
        watch(given.detach(), output.detach())
        if last:
            raise _PassedLastSite

    return hook


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """The items in order, `size` at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]
