"""Lockstep: all passes of a few records at once, which halt at every site, so that what is found there may change the
site before anything flows on.

One pass a record then does for all sites, where running anew for each site would take as many as there are sites. Each
batch runs in a thread of its own, and one thread computes at a time: what comes out does not depend on which is first.
All batches are alive at once, as far as they have come.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from chip.collect.fitting import ran_out_of_memory
from chip.collect.grouping import EncodedGroup, chunks, in_order
from chip.collect.keys import Rows, finite
from chip.collect.layout import Pass, lay_out
from chip.collect.statistics import accumulator_dtype
from chip.errors import ChipError
from chip.models.loading import LoadedModel
from chip.models.sites import Site

_MOST_BATCHES = 32
"""About as many batches, and threads, at most: all of them are in memory at once in any case."""

_LOGITS_AT_ONCE = 512
"""Tokens whose logits are made together: each has as many as the vocabulary."""


@dataclass(frozen=True)
class Flow:
    """What passes a site at the answer positions: what enters it, `given` (N, d), and `leaving` (N, D): the residual
    stream behind it where the site has a block, and what leaves the site (its bias included) where not."""

    given: Tensor
    leaving: Tensor


AtSite = Callable[[Site, Flow], None]


class _Stopped(Exception):
    """Ends a pass: it has come to the head, or another one has failed."""


@dataclass
class _Batch:
    """One pass on its way, and what it has last seen at its answer positions: what enters a site, `given`, and the
    residual stream `before` the site puts something into it (None where the site has no block). `stream` is all of that
    stream, behind the block's attention or, before that, at its entrance."""

    one: Pass
    records: Tensor
    given: Tensor = field(default_factory=lambda: torch.empty(0))
    before: Tensor | None = None
    stream: Tensor | None = None


def run_in_step(
    loaded: LoadedModel, groups: Sequence[EncodedGroup], sites: Sequence[Site], batch_tokens: int, at_site: AtSite
) -> Tensor:
    """Run records whole, in passes of at most so many tokens; what enters the head at the answer positions, (N, D).

    `at_site` is called once for each of the sites, which write into the residual stream, in forward order, with what
    passes it at all answer positions, in the order of the records; it may change the site's weight, and every pass goes
    on through the changed one. Raises what it raises, and ChipError where memory does not hold all passes at once.
    """
    step = _Lockstep(loaded, groups, sites, batch_tokens)
    try:
        with step.running():
            for site in sites:
                at_site(site, step.flow(site))
                step.go_on()
            return step.states()
    except RuntimeError as problem:
        if not ran_out_of_memory(problem):
            raise
        raise ChipError(
            "memory does not hold all records that run beside the target at once; choose a smaller --held"
        ) from problem


def margins(loaded: LoadedModel, groups: Sequence[EncodedGroup], states: Tensor) -> Tensor:
    """By how much the logit of each answer token exceeds the largest of all others, (N,), from what enters the head,
    (N, D), in the order of the records: below zero, the token is not the likeliest."""
    tokens = torch.cat([one.answer_ids for one in in_order(groups)]).to(states.device)
    found = []
    for rows, right in zip(states.split(_LOGITS_AT_ONCE), tokens.split(_LOGITS_AT_ONCE), strict=True):
        with torch.no_grad():
            logits = loaded.model.get_submodule(loaded.head)(rows.to(loaded.dtype)).to(rows)
        own = logits.gather(1, right[:, None])
        others = logits.scatter(1, right[:, None], -torch.inf).amax(1, keepdim=True)
        found.append((own - others).flatten())
    return torch.cat(found)


def _batches(loaded: LoadedModel, groups: Sequence[EncodedGroup], batch_tokens: int) -> Iterator[_Batch]:
    """Every record in a row of its own: a prefix that others follow would have to be changed before they have come."""
    whole = [replace(group, shared=0) for group in groups]
    batch_tokens = max(batch_tokens, sum(len(one) for group in whole for one in group.encoded) // _MOST_BATCHES)
    for chunk in chunks(whole, batch_tokens):
        positions = torch.tensor([position for group in chunk for position in group.group.records])
        for one in lay_out(chunk, loaded.prompts, loaded.device, batch_tokens, loaded.longest_together):
            yield _Batch(one, positions[one.answer_members.cpu()])


class _Lockstep:
    """The threads, the baton that one of them holds at a time, and the hooks at which they halt."""

    def __init__(
        self, loaded: LoadedModel, groups: Sequence[EncodedGroup], sites: Sequence[Site], batch_tokens: int
    ) -> None:
        self._loaded, self._sites = loaded, tuple(sites)
        self._stops = (*(site.name for site in sites), loaded.head)
        self._batches = list(_batches(loaded, groups, batch_tokens))
        self._here = threading.local()
        self._baton, self._changed = threading.Lock(), threading.Condition()
        # How often batches have halted, all together, and how often all were sent on.
        self._halted, self._released = 0, 0
        self._failure: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start every batch, and end them all on the way out."""
        started: list[threading.Thread] = []
        with ExitStack() as hooks:
            for hook in self._hooks():
                hooks.callback(hook.remove)
            try:
                for batch in self._batches:
                    thread = threading.Thread(target=self._run, args=(batch,), daemon=True)
                    thread.start()
                    started.append(thread)
                yield
            except BaseException as problem:
                self._fail(problem)
                raise
            finally:
                for thread in started:
                    thread.join()

    def flow(self, site: Site) -> Flow:
        """Wait until every batch has come to a site; what passes it there."""
        self._wait_for_all()
        given = self._in_order(site.name, lambda batch: batch.given)
        weight, bias = site.weight(self._loaded.model), site.bias(self._loaded.model)
        leaving = given @ weight.to(given).T
        if bias is not None:
            leaving += bias.to(given)
        if site.block:
            leaving += self._in_order(site.name, lambda batch: batch.before).to(leaving.device)
        return Flow(given, leaving)

    def states(self) -> Tensor:
        """Wait until every batch has come to the head, and end them; what enters that."""
        self._wait_for_all()
        found = self._in_order(self._loaded.head, lambda batch: batch.given)
        self.go_on()
        return found

    def go_on(self) -> None:
        """Send every batch on from where it has halted."""
        with self._changed:
            self._released += 1
            self._changed.notify_all()

    def _in_order(self, name: str, of: Callable[[_Batch], Tensor | None]) -> Tensor:
        rows = Rows()
        for batch in self._batches:
            one = of(batch)
            assert one is not None
            rows.rows.append(one)
            rows.records.append(batch.records)
        return finite(name, rows.in_order()).to(accumulator_dtype(rows.rows[0].device))

    def _run(self, batch: _Batch) -> None:
        self._here.batch = batch
        self._baton.acquire()
        try:
            with torch.no_grad():
                self._loaded.model(**batch.one.inputs, use_cache=False)
            self._fail(ChipError("a pass ended before it came to the output head; choose --method oblique"))
        except _Stopped:
            pass
        except BaseException as problem:  # noqa: BLE001 - raised again where the batches were started
            self._fail(problem)
        finally:
            self._baton.release()

    def _hooks(self) -> Iterator[RemovableHandle]:
        model = self._loaded.model
        for site in self._sites:
            yield model.get_submodule(site.name).register_forward_pre_hook(self._at(site))
        blocks = {site.block for site in self._sites if site.block}
        for block in blocks:
            yield model.get_submodule(block).register_forward_pre_hook(self._before_block, with_kwargs=True)
        for site in self._loaded.sites:
            if site.role == "attention" and site.block in blocks:
                yield model.get_submodule(site.name).register_forward_hook(self._behind_attention)
        yield model.get_submodule(self._loaded.head).register_forward_pre_hook(self._at_head)

    def _before_block(self, _: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        self._here.batch.stream = inputs[0] if inputs else named["hidden_states"]

    def _behind_attention(self, _: nn.Module, __: object, output: Tensor) -> None:
        # Where layers are spread over devices, a block is given its inputs before they have been moved to its own.
        self._here.batch.stream = self._here.batch.stream.to(output.device) + output

    def _at(self, site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def halt(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            batch = self._here.batch
            batch.given = self._answers(inputs[0])
            batch.before = self._answers(batch.stream) if site.block else None
            self._halt(site.name)

        return halt

    def _at_head(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._here.batch.given = self._answers(inputs[0])
        self._halt(self._loaded.head)
        raise _Stopped

    def _answers(self, rows: Tensor) -> Tensor:
        flat = rows.flatten(0, -2)
        return flat[self._here.batch.one.answers.to(flat.device)]

    def _halt(self, at: str) -> None:
        """Hand the baton on, and wait until all others have come as far and the site has been seen to."""
        due = self._stops[self._released]
        if at != due:
            self._fail(ChipError(f"the model runs {at} where {due} was due; choose --method oblique"))
        self._baton.release()
        try:
            with self._changed:
                stage = self._halted // len(self._batches)
                self._halted += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._released > stage or self._failure is not None)
        finally:
            self._baton.acquire()
        if self._failure is not None:
            raise _Stopped

    def _wait_for_all(self) -> None:
        """Wait until all batches have halted once more than they were sent on."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._halted == (self._released + 1) * len(self._batches) or self._failure is not None
            )
        if self._failure is not None:
            raise self._failure

    def _fail(self, problem: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or problem
            self._changed.notify_all()
