"""The requests of a batch in one checkpoint that forgets them all, in their order.

No state in between is written: the edits are kept, and the checkpoint is their chain on the base. What one request has
forgotten is for those after it neither target nor retained.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from chip.collect.fitting import Notice
from chip.duolearn.kept import remove_training
from chip.edit import Applying, Edit, StagedCheckpoint, load_edit, save_edits
from chip.edit.ledger import entry_of, read_ledgers
from chip.edit.outputs import refuse_existing
from chip.edit.receipt import described, hashed_nodes, write_receipt
from chip.edit.staging import recover_output
from chip.errors import ChipError
from chip.hierarchy import NodePath, Split, outermost
from chip.measure import audit_groups, wholes
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.progress import silent
from chip.solve.chain import Chain
from chip.solve.problem import Problem
from chip.workflow.asking import Row, ask, rows
from chip.workflow.batch import LEDGER, MODEL, PreparedBatch, Tell
from chip.workflow.choosing import Choice, choose, groups_of
from chip.workflow.edit import prepare
from chip.workflow.opened import Opened, Standing, without
from chip.workflow.outcome import Outcome, finished_edit, found_receipt, holds
from chip.workflow.prepared import PreparedEdit, problem_of, refuse_impossible, training_file
from chip.workflow.request import EditRequest, EditResult
from chip.workflow.requests import Asked
from chip.workflow.tune import judged
from chip.workflow.writing import receipt_of, request_digest

_SCRATCH = ".model.chip-scratch"


def run_cumulatively(
    prepared: PreparedBatch, standing: Standing, salt: bytes, notice: Notice, tell: Tell
) -> tuple[tuple[Outcome, ...], Outcome | None]:
    """Every request on what those before it have left, and what became of all of them together; None of them where
    none could be carried out."""
    scratch = prepared.request.out_dir / _SCRATCH
    # Statistics would have made it; methods that train need none.
    scratch.parent.mkdir(parents=True, exist_ok=True)
    try:
        run = _Run(prepared, standing, salt, scratch, notice)
        outcomes = []
        for asked in prepared.asked:
            outcomes.append(run.one(asked))
            tell(outcomes[-1])
        together = run.together() if run.edits else None
        if together is not None:
            tell(together)
        return tuple(outcomes), together
    finally:
        scratch.unlink(missing_ok=True)


class _Run:
    """The state between two requests: the chain of edits, what they have forgotten, and the statistics without it."""

    def __init__(self, prepared: PreparedBatch, standing: Standing, salt: bytes, scratch: Path, notice: Notice) -> None:
        self._prepared, self._salt, self._notice = prepared, salt, notice
        self._chain = Chain(prepared.opened.loaded.model, prepared.stored, scratch)
        self._everything, self._standing, self._taken_off = standing, standing, 0
        self.edits: list[Edit] = []
        self._done: list[Asked] = []
        self._gone: list[tuple[NodePath, ...]] = []
        self._replaces = _is_ours(prepared.request.out_dir, salt)
        out = prepared.request.out_dir / MODEL
        refuse_existing(out, prepared.opened.checkpoint.directory, force=prepared.request.force or self._replaces)

    @property
    def _after(self) -> tuple[str, ...]:
        return tuple(edit.identity for edit in self.edits)

    @property
    def _forgotten(self) -> tuple[NodePath, ...]:
        """What the requests so far have forgotten, of nodes within one another the outermost."""
        return outermost(node for nodes in self._gone for node in nodes)

    def one(self, asked: Asked) -> Outcome:
        """One request: done, done before, or failed."""
        if asked.line in self._prepared.failed:
            return Outcome(asked.name, asked.line, "failed", asked.forget, {}, self._prepared.failed[asked.line])
        started, request = time.monotonic(), self._prepared.request.edit(asked)
        assert request.receipt is not None
        assert request.edit_out is not None
        try:
            opened, split = self._opened(asked)
            digest = request_digest(request, opened, split.targets, self._after, self._salt)
            receipt = found_receipt(request.receipt)
            kept = finished_edit(receipt, digest, request.edit_out)
            if kept is not None:
                self._add(kept, split, asked)
                return Outcome(asked.name, asked.line, "done before", asked.forget, receipt)
            refuse_impossible(request, opened.loaded, opened.left, split)
            step = self._choose(asked, request, opened, split)
        except (ChipError, OSError, RuntimeError) as problem:  # torch says that memory or a matrix fails it by the last
            return Outcome(asked.name, asked.line, "failed", asked.forget, {}, str(problem))
        self._keep(asked, request, step, started)
        return Outcome(asked.name, asked.line, "done", asked.forget, found_receipt(request.receipt))

    def together(self) -> Outcome:
        """Write the checkpoint, unless it is there, and ask it about all that was forgotten and all that was not."""
        started, request, opened = time.monotonic(), self._prepared.request, self._prepared.opened
        out, path = request.out_dir / MODEL, request.out_dir / f"{MODEL}.receipt.json"
        receipt, forget = found_receipt(path), tuple(name for one in self._done for name in one.forget)
        if [one["identity"] for one in receipt.get("edits", ())] == [*self._after] and holds(out, self._chain.digests):
            return Outcome(MODEL, 0, "done before", forget, receipt)
        split, settings = opened.left.split(self._forgotten), self._done[0].settings
        groups = audit_groups(opened.left, split, limit=request.verify_records, seed=settings.seed)
        applying = Applying(self.edits)
        force = request.force or self._replaces
        with StagedCheckpoint(opened.checkpoint, applying, out, force=force, link=request.link) as staged:
            if [one.edited for one in applying.edits] != [one.edited for one in self.edits]:
                raise ChipError(f"{out}: the edits in a row do not give what they gave one by one; nothing was written")
            proof, table, verdict = staged.prove(), tuple[Row, ...](), None
            if request.verify:
                with self._chain.original():
                    before = ask(opened.loaded, groups, settings.batch_size, silent, "")
                opened.loaded.model.to("cpu")  # type: ignore[arg-type]  # an accelerator may not hold both
                again = load_model(Checkpoint(staged.directory), request.device, request.dtype)
                after = ask(again, groups, settings.batch_size, silent, "")
                table, parts = rows(wholes(groups), before, after), wholes(groups)
                verdict = judged(parts, before, after, request.tuning)
            content = {
                "action": "edit",
                **described(applying.edits, proof, staged.copied, applying.rounding),
                "forgotten": hashed_nodes(opened.forgotten, self._salt),
                "verification": [asdict(row) for row in table],
                "verdict": None if verdict is None else verdict.as_json(),
                "seconds": round(time.monotonic() - started, 3),
            }
            write_receipt(path, content, request.sign)
            staged.commit()
        return Outcome(MODEL, 0, "done", forget, found_receipt(path))

    def _opened(self, asked: Asked) -> tuple[Opened, Split]:
        """The records that are left for a request, and how it divides them.

        Raises ChipError where all that it names was forgotten before.
        """
        opened = self._prepared.opened
        opened = replace(opened, forgotten=outermost((*opened.forgotten, *self._forgotten)))
        targets = self._prepared.targets(asked)
        for name, target in zip(asked.forget, targets, strict=True):
            if target not in opened.left.nodes:
                raise ChipError(f"nothing is left of {name}: the requests before this one have forgotten all of it")
        return opened, opened.left.split(targets)

    def _choose(self, asked: Asked, request: EditRequest, opened: Opened, split: Split) -> "_Step":
        """Solve a request on the weights as they are, so that what was forgotten before stays so."""
        assert request.out is not None
        prepared = prepare(request, opened, split, self._chain.stored, self._prepared.supply, request.out)
        said = self._told(asked)
        for warning in prepared.plan.warnings:
            said(warning)
        problem = self._problem(prepared, said)
        choice = choose(request, problem, prepared.space, groups_of(prepared), silent, said)
        nodes = tuple(hashed_nodes(split.targets, self._salt))
        return _Step(prepared, choice, replace(choice.solved.edit, nodes=nodes, after=self._after))

    def _problem(self, prepared: PreparedEdit, said: Notice) -> Problem:
        """The request as its solver sees it.

        Counterparts bring what is retained back to what the unedited model makes of it, and what was forgotten before
        lies so near to that that it would come back too: it is held at its counterparts by being a target still. The
        other methods bring nothing back, and never see it.
        """
        original, turn = self._chain.original, len(self.edits)
        digest = request_digest(prepared.request, prepared.opened, prepared.split.targets, self._after, self._salt)
        named = partial(
            problem_of,
            prepared,
            track=silent,
            notice=said,
            original=original,
            turn=turn,
            salt=self._salt,
            identity=digest,
        )
        if prepared.request.settings.method != "counterpart":
            return named(self._standing_now())
        split = self._everything.hierarchy.split(outermost((*self._forgotten, *prepared.split.targets)))
        return named(self._everything, split=split)

    def _standing_now(self) -> Standing:
        """The statistics without what was forgotten, each request's share taken off in turn."""
        size = self._prepared.supply.collection.batch_tokens
        with self._chain.original():
            while self._taken_off < len(self._gone):
                nodes = self._gone[self._taken_off]
                self._standing = without(
                    self._standing, nodes, self._prepared.opened.loaded, size, silent, self._notice
                )
                self._taken_off += 1
        return self._standing

    def _add(self, edit: Edit, split: Split, asked: Asked) -> Edit:
        edit = self._chain.add(edit)
        self.edits.append(edit)
        self._gone.append(split.targets)
        self._done.append(asked)
        return edit

    def _keep(self, asked: Asked, request: EditRequest, step: "_Step", started: float) -> None:
        """Put the edit on the live model, ask that, and keep the edit and, at last, the receipt that vouches for it."""
        assert request.receipt is not None
        assert request.edit_out is not None
        choice, split = step.choice, step.prepared.split
        edit = self._add(step.edit, split, asked)
        table, verdict = tuple[Row, ...](), None
        if request.verify:
            after = ask(step.prepared.loaded, choice.groups, request.settings.batch_size, silent, "")
            table, verdict = (
                rows(choice.parts, choice.before, after),
                judged(choice.parts, choice.before, after, request.tuning),
            )
        result = EditResult(
            choice.solved.sites,
            table,
            None,
            request.receipt,
            request.edit_out,
            choice.tuning,
            verdict,
            training=choice.solved.training,
        )
        save_edits([edit], request.edit_out)
        # From its file, which is read as it is needed: a hundred edits need not fit in memory.
        self.edits[-1] = load_edit(request.edit_out)
        seconds = time.monotonic() - started
        content = receipt_of(step.prepared, edit, result, self._salt, seconds, "nothing")
        write_receipt(request.receipt, content, request.sign)
        if request.out is not None:
            remove_training(training_file(request.out))

    def _told(self, asked: Asked) -> Notice:
        return lambda text: self._notice(f"{asked.name}: {text}")


def _is_ours(out_dir: Path, salt: bytes) -> bool:
    """Whether the checkpoint that stands there is what an earlier run of a batch has left, and nobody changed it."""
    out, ledger = out_dir / MODEL, out_dir / LEDGER
    recover_output(out)
    if not out.is_dir():
        return False
    known = {entry.checkpoint for entry in read_ledgers([ledger], salt).entries} if ledger.exists() else set()
    receipt = found_receipt(out_dir / f"{MODEL}.receipt.json")
    written = entry_of(receipt) if receipt else None
    return Checkpoint(out).digest in known | ({written.checkpoint} if written else set())


@dataclass(frozen=True)
class _Step:
    """A request that was solved on the state before it."""

    prepared: PreparedEdit
    choice: Choice
    edit: Edit
