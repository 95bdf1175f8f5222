"""`chip verify`, `chip revert`, `chip recover`: an edit proved, taken back, and put right where it was interrupted.

Imports no torch.
"""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chip.edit import Restoring, load_edits, written
from chip.edit.chain import fitting
from chip.edit.edit import Edit
from chip.edit.outputs import refuse_existing, refuse_inside
from chip.edit.proof import Proof, files_digest, verify
from chip.edit.receipt import default_receipt, described, read_receipt, write_receipt
from chip.edit.recovery import recover
from chip.edit.signature import private_key, verify_signature
from chip.edit.writer import kept_once_committed
from chip.errors import ChipError, UsageError
from chip.models.checkpoint import Checkpoint

_OTHER = (
    "; give the checkpoint as it was before the edit, and the edited one first; one that was made with --transfer "
    "needs the edit that `chip apply --transfer --edit-out FILE` kept, not the one that it was derived from"
)


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
    proof, edits = None, tuple[Edit, ...]()
    if request.base is not None:
        base = Checkpoint(request.base)
        edits = fitting(base, _loaded(request.edits), hint=_OTHER)
        proof = verify(base, edited, edits)
    signed_by = None
    if request.receipt is not None:
        content = read_receipt(request.receipt)
        _check_receipt(request, content, edited)
        if proof is not None:
            _check_origin(request.receipt, content, edits, proof)
        if "signature" in content or request.public_key is not None:
            signed_by = verify_signature(content, request.public_key)
    return Verified(proof, request.receipt, signed_by)


def carry_out_revert(request: RevertRequest) -> Reverted:
    """Take edits back: their tensors become byte for byte what they are in the base.

    Raises ChipError where the checkpoint is not the base with these edits, so that nothing else is lost.
    """
    if request.in_place == (request.out is not None):
        raise UsageError("give either --out, for a new checkpoint, or --in-place")
    if request.sign is not None:
        private_key(request.sign)
    recover(request.edited, request.edited if request.out is None else request.out)
    edited, base = Checkpoint(request.edited), Checkpoint(request.base)
    edits = fitting(base, _loaded(request.edits), hint=_OTHER)
    verify(base, edited, edits)
    out = request.edited if request.out is None else request.out
    if request.out is not None:
        refuse_existing(request.out, request.edited, force=request.force)
        refuse_existing(request.out, request.base, force=request.force)
    receipt = request.receipt or default_receipt(out, in_place=request.in_place)
    refuse_inside({"--receipt": receipt}, (out, request.edited, request.base))
    restoring = Restoring(base, tuple(dict.fromkeys(name for edit in edits for name in edit.tensors)))
    with written(edited, restoring, request.out, force=request.force, link=request.link) as made:
        proof = made.prove()
        with kept_once_committed(made) as beside:
            write_receipt(receipt, _receipt(edits, edited, base, proof, made.copied), request.sign)
            beside.append(receipt)
            made.commit()
    return Reverted(out, receipt, proof)


def carry_out_recover(path: Path) -> tuple[str, ...]:
    """Put right what an interrupted run left of a model or at an output; what was done, in words.

    Raises ChipError where there is no such path, nor anything that a run has left beside it.
    """
    if not path.exists() and not any(path.resolve().parent.glob(f".{glob.escape(path.resolve().name)}.chip-*")):
        raise ChipError(f"{path} does not exist, and nothing of it was left behind; check the path")
    return tuple(filter(None, (recover(path, path),)))


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


def _check_receipt(request: VerifyRequest, content: Mapping[str, Any], edited: Checkpoint) -> None:
    """That the receipt is one of this checkpoint."""
    proof = content["proof"]
    if proof is None and not content["tensors"]:
        raise ChipError(f"{request.receipt} says nothing of any checkpoint: it names no tensor and holds no proof")
    for name, digests in content["tensors"].items():
        found = edited.matrix(name).digest() if name in edited.tensors else None
        if found != digests["after"]:
            raise ChipError(f"{request.receipt} is not of {request.edited}: it gives {name} another digest")
    if proof is not None and proof["edited_digest"] != edited.digest:
        raise ChipError(f"{request.receipt} is not of {request.edited}: it gives the checkpoint another digest")
    if proof is not None and proof["files_digest"] != files_digest(edited):
        raise ChipError(f"{request.receipt} is not of {request.edited}: files beside its weights differ or are missing")


def _check_origin(receipt: Path, content: Mapping[str, Any], edits: Sequence[Edit], proof: Proof) -> None:
    """That the receipt tells of these edits and of this base; of an edit, not of one that was taken back."""
    if [one["identity"] for one in content["edits"]] != [edit.identity for edit in edits]:
        raise ChipError(f"{receipt} is of other edits than those given")
    if content["proof"] is not None and content["proof"]["base_digest"] != proof.base_digest:
        raise ChipError(f"{receipt} is of another base than the one given")
