"""The requests of a batch, each on the unedited model: one after the other, or by several processes at once."""

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache

from transformers.utils import logging

from chip.collect.fitting import Notice
from chip.collect.memory import moment_budget
from chip.edit.outputs import refuse_existing
from chip.edit.staging import recover_output
from chip.errors import ChipError
from chip.progress import silent
from chip.solve.bases import MetricBases
from chip.workflow.batch import BatchRequest, PreparedBatch, Tell, prepare_batch
from chip.workflow.choosing import choose, groups_of
from chip.workflow.edit import prepare
from chip.workflow.opened import Standing, obtain
from chip.workflow.outcome import Outcome, finished_edit, found_receipt, holds
from chip.workflow.prepared import problem_of, refuse_impossible
from chip.workflow.requests import Asked
from chip.workflow.writing import request_digest, write


@dataclass(frozen=True)
class Bench:
    """Where requests are solved: what they share, and what is factorised once for all of them."""

    prepared: PreparedBatch
    standing: Standing
    bases: MetricBases
    salt: bytes


def run_independently(
    prepared: PreparedBatch, standing: Standing, salt: bytes, notice: Notice, tell: Tell
) -> tuple[Outcome, ...]:
    """Every request, in their order; with several jobs they end in any order."""
    jobs = min(prepared.request.jobs, len(prepared.asked) - len(prepared.failed))
    if jobs > 1:
        return _shared_out(prepared, salt, jobs, notice, tell)
    bench = _bench(prepared, standing, salt)
    outcomes = []
    for asked in prepared.asked:
        outcome, said = run_one(bench, asked)
        outcomes.append(_told(outcome, said, notice, tell))
    return tuple(outcomes)


def run_one(bench: Bench, asked: Asked) -> tuple[Outcome, tuple[str, ...]]:
    """One request: done, done before, or failed; and what is to be said about it."""
    started, said = time.monotonic(), list[str]()
    prepared, opened = bench.prepared, bench.prepared.opened
    if asked.line in prepared.failed:
        return _failed(asked, prepared.failed[asked.line]), ()
    try:
        edit = prepared.request.edit(asked)
        assert edit.out is not None
        assert edit.receipt is not None
        assert edit.edit_out is not None
        split = opened.left.split(prepared.targets(asked))
        if recovered := recover_output(edit.out):
            said.append(recovered)
        receipt = found_receipt(edit.receipt)
        kept = finished_edit(receipt, request_digest(edit, opened, split.targets, (), bench.salt), edit.edit_out)
        if kept is not None and holds(edit.out, kept.edited):
            return Outcome(asked.name, asked.line, "done before", asked.forget, receipt), ()
        refuse_existing(edit.out, opened.checkpoint.directory, force=edit.force)
        refuse_impossible(edit, opened.loaded, opened.left, split)
        if opened.loaded.device.type != "cpu":
            opened.loaded.model.to(opened.loaded.device)  # type: ignore[arg-type]  # the last one asked its successor
        one = prepare(edit, opened, split, prepared.stored, prepared.supply, edit.out)
        said += one.plan.warnings
        identity = request_digest(edit, opened, split.targets, (), bench.salt)
        problem = problem_of(
            one, bench.standing, silent, said.append, bases=bench.bases, salt=bench.salt, identity=identity
        )
        choice = choose(edit, problem, one.space, groups_of(one), silent, said.append)
        write(one, choice, bench.salt, started, silent, said.append)
    except (ChipError, OSError, RuntimeError) as problem:  # torch says that memory or a matrix fails it by the last
        return _failed(asked, str(problem)), tuple(said)
    return Outcome(asked.name, asked.line, "done", asked.forget, found_receipt(edit.receipt)), tuple(said)


def _failed(asked: Asked, reason: str) -> Outcome:
    return Outcome(asked.name, asked.line, "failed", asked.forget, {}, reason)


def _told(outcome: Outcome, said: Sequence[str], notice: Notice, tell: Tell) -> Outcome:
    for one in said:
        notice(f"{outcome.name}: {one}")
    tell(outcome)
    return outcome


def _bench(prepared: PreparedBatch, standing: Standing, salt: bytes) -> Bench:
    return Bench(prepared, standing, MetricBases(moment_budget(prepared.opened.loaded.device)), salt)


def _shared_out(prepared: PreparedBatch, salt: bytes, jobs: int, notice: Notice, tell: Tell) -> tuple[Outcome, ...]:
    """Processes of their own, each with the model and the statistics that were kept in their file."""
    prepared.opened.loaded.model.to("cpu")  # type: ignore[arg-type]  # an accelerator is for those that do the work
    found: dict[int, Outcome] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin, (prepared.request, prepared.asked, salt)) as pool:
        running = {pool.submit(_run_there, asked): asked for asked in prepared.asked}
        for one in as_completed(running):
            try:
                outcome, said = one.result()
            except BrokenProcessPool:
                reason = "the process that worked on it, or on another one, was ended; run the batch again to go on"
                outcome, said = _failed(running[one], reason), ()
            found[outcome.line] = _told(outcome, said, notice, tell)
    return tuple(found[asked.line] for asked in prepared.asked)


def _begin(request: BatchRequest, asked: tuple[Asked, ...], salt: bytes) -> None:
    """What a process does first: it ends with the one that started it, whatever ended that."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    prepared = prepare_batch(request, asked)
    standing = obtain(prepared.opened, prepared.supply, prepared.alpha, request.collecting, keep=False)
    _benches_here().append(_bench(prepared, standing, salt))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@cache
def _benches_here() -> list[Bench]:
    """The bench of this process, once it has begun: it would travel with every request, were it handed over."""
    return []


def _run_there(asked: Asked) -> tuple[Outcome, tuple[str, ...]]:
    (bench,) = _benches_here()
    return run_one(bench, asked)
