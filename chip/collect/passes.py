"""One pass of the model over a batch, with what flows through the watched sites handed to their watchers.

The pass ends at the last watched site: nothing after it is computed, the logits least of all.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from einops import rearrange
from torch import Tensor

from chip.errors import ChipError
from chip.models.loading import LoadedModel
from chip.models.prompts import Batch
from chip.models.sites import Site

Watch = Callable[[Tensor, Tensor], None]
"""Takes a site's input and output: (B, S, d) and (B, S, D) at language sites, (R, d) and (R, D) at projector sites,
where R counts the rows of the batch's images, record by record (`Batch.rows_of_records`); vision sites likewise."""


IMAGE_ROLES = ("projector", "vision")
"""Sites that only images pass, in rows of their own."""


class _PassedLastSite(Exception):
    """Ends a forward pass from within a hook."""


def run(loaded: LoadedModel, batch: Batch, watches: Mapping[Site, Watch]) -> None:
    """Run the model on a batch as far as the last watched site that it reaches."""
    sites = sorted(watches, key=loaded.sites.index)
    shown = bool(batch.image_rows.any())
    reached = [site for site in sites if shown or site.role not in IMAGE_ROLES]
    if not reached:
        return
    hooks = [site.watch(loaded.model, _watcher(site, watches[site], last=site is reached[-1])) for site in reached]
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


def _watcher(site: Site, watch: Watch, *, last: bool) -> Watch:
    def watcher(given: Tensor, output: Tensor) -> None:
        if site.role in IMAGE_ROLES:
            given, output = (rearrange(rows, "... width -> (...) width") for rows in (given, output))
        watch(given, output)
        if last:
            raise _PassedLastSite

    return watcher
