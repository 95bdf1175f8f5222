"""`chip verify`, `chip revert`, `chip recover`: an edit proved, taken back, and put right where it was interrupted.

Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chip.edit import CheckpointInPlace, Restoring, StagedCheckpoint, WrittenCheckpoint, load_edits
from chip.edit.chain import fitting
from chip.edit.edit import Edit
from chip.edit.journal import recover_model
from chip.edit.outputs import refuse_existing, refuse_inside
from chip.edit.proof import Proof, verify
from chip.edit.receipt import described, read_receipt, write_receipt
from chip.edit.signature import private_key, verify_signature
from chip.edit.staging import recover_output
from chip.errors import ChipError, UsageError
from chip.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class VerifyRequest:
    """What `chip verify` was asked. edits: in the order in which they were applied; none where only the receipt is
    checked against the two checkpoints."""

    edited: Path
    base: Path | None = None
    edits: tuple[Path, ...] = ()
    receipt: Path | None = None
    public_key: Path | None = None


@dataclass(frozen=True)
class Verified:
    """What was proved: the checkpoint against base and edits, what the receipt says of it, and by which key the receipt
    is signed. None where that was not asked."""

    proof: Proof | None
    receipt: Path | None
    signed_by: str | None


@dataclass(frozen=True)
class RevertRequest:
    """What `chip revert` was asked. edits: those to take back, in the order in which they were applied."""

    edited: Path
    edits: tuple[Path, ...]
    base: Path
    out: Path | None = None
    in_place: bool = False
    link: bool = False
    force: bool = False
    receipt: Path | None = None
    sign: Path | None = None


@dataclass(frozen=True)
class Reverted:
    """A checkpoint whose edits were taken back."""

    out: Path
    receipt: Path
    proof: Proof


def carry_out_verify(request: VerifyRequest) -> Verified:
    """Prove what was asked. Raises ChipError that names the first thing that does not hold."""
    if request.base is None and request.edits:
        raise UsageError("--edit says how the checkpoint came from another one; name that one with --against")
    if request.base is not None and not request.edits:
        raise UsageError("--against needs the edit as well; give its file with --edit")
    if request.base is None and request.receipt is None:
        raise UsageError("nothing to verify against: give --against BASE --edit FILE, or --receipt FILE, or both")
    if request.public_key is not None and request.receipt is None:
        raise UsageError("--public-key is the key that signed a receipt; name that with --receipt")
    edited = Checkpoint(request.edited)
    proof = None
    if request.base is not None:
        base = Checkpoint(request.base)
        edits = fitting(base, _loaded(request.edits))
        proof = verify(base, edited, edits)
    signed_by = None
    if request.receipt is not None:
        signed_by = _check_receipt(request, edited)
    return Verified(proof, request.receipt, signed_by)


def carry_out_revert(request: RevertRequest) -> Reverted:
    """Take edits back: their tensors become byte for byte what they are in the base.

    Raises ChipError where the checkpoint is not the base with these edits, so that nothing else is lost.
    """
    if request.in_place == (request.out is not None):
        raise UsageError("give either --out, for a new checkpoint, or --in-place")
    if request.sign is not None:
        private_key(request.sign)
    recover_model(request.edited)
    edited, base = Checkpoint(request.edited), Checkpoint(request.base)
    edits = fitting(base, _loaded(request.edits))
    verify(base, edited, edits)
    out = request.edited if request.out is None else request.out
    if request.out is not None:
        refuse_existing(request.out, request.edited, force=request.force)
        refuse_existing(request.out, request.base, force=request.force)
    receipt = request.receipt or out.with_name(out.name + ".receipt.json")
    refuse_inside({"--receipt": receipt}, (out, request.edited, request.base))
    restoring = Restoring(base, tuple(dict.fromkeys(name for edit in edits for name in edit.tensors)))
    with _written(request, edited, restoring) as written:
        proof = written.prove()
        write_receipt(receipt, _receipt(edits, edited, base, proof, written.copied), request.sign)
        written.commit()
    return Reverted(out, receipt, proof)


def carry_out_recover(path: Path) -> tuple[str, ...]:
    """Put right what an interrupted run left of a model or at an output; what was done, in words."""
    return tuple(said for said in (recover_model(path) if path.is_dir() else "", recover_output(path)) if said)


def _written(request: RevertRequest, edited: Checkpoint, restoring: Restoring) -> WrittenCheckpoint:
    if request.out is None:
        return CheckpointInPlace(edited, restoring)
    return StagedCheckpoint(edited, restoring, request.out, force=request.force, link=request.link)


def _receipt(edits: Sequence[Edit], edited: Checkpoint, base: Checkpoint, proof: Proof, copied: str) -> dict[str, Any]:
    """A receipt whose tensors go from how the edits left them to how they are in the base."""
    names = sorted({name for edit in edits for name in edit.tensors})
    turned = {
        name: {
            "before": edited.matrix(name).combined(edited.tensor_digests),
            "after": base.matrix(name).combined(base.tensor_digests),
        }
        for name in names
    }
    return {"action": "revert", **described(edits, proof, copied), "tensors": turned}


def _loaded(paths: Sequence[Path]) -> tuple[Edit, ...]:
    return tuple(edit for path in paths for edit in load_edits(path))


def _check_receipt(request: VerifyRequest, edited: Checkpoint) -> str | None:
    """That the receipt is one of this checkpoint; by which key it is signed."""
    assert request.receipt is not None
    content = read_receipt(request.receipt)
    for name, digests in content["tensors"].items():
        found = edited.matrix(name).digest() if name in edited.tensors else None
        if found != digests["after"]:
            raise ChipError(f"{request.receipt} is not of {request.edited}: it gives {name} another digest")
    proof = content["proof"]
    if proof is not None and proof["edited_digest"] != edited.digest:
        raise ChipError(f"{request.receipt} is not of {request.edited}: it gives the checkpoint another digest")
    if "signature" not in content and request.public_key is None:
        return None
    return verify_signature(content, request.public_key)
