"""`chip merge`: write a LoRA adapter into its base model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chip.edit import Applying, StagedCheckpoint, refuse_existing, save_edits
from chip.edit.merge import adapter_edit
from chip.edit.outputs import files_left_behind, refuse_inside
from chip.edit.proof import Proof
from chip.edit.receipt import default_receipt, described, write_receipt
from chip.edit.writer import kept_once_committed
from chip.files import file_digest
from chip.models.checkpoint import Checkpoint
from chip.models.folders import resolve_model


@dataclass(frozen=True)
class MergeResult:
    """What a merge wrote: the checkpoint and its receipt, the edit where it was kept, the tensors that changed, what
    was not carried from the base, what is to be known of it, and what was proved."""

    out: Path
    receipt: Path
    edit: Path | None
    tensors: tuple[str, ...]
    left_behind: tuple[str, ...]
    notices: tuple[str, ...]
    proof: Proof

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "out": str(self.out),
            "receipt": str(self.receipt),
            "edit": None if self.edit is None else str(self.edit),
            "tensors": list(self.tensors),
            "left_behind": list(self.left_behind),
            "notices": list(self.notices),
            "proof": asdict(self.proof),
        }


def merge(adapter: str, base: str, out: Path, *, edit_out: Path | None = None, force: bool = False) -> MergeResult:
    """Write the base model with the adapter added to it. On any failure nothing is left at the output."""
    source = resolve_model(adapter)
    checkpoint = Checkpoint(resolve_model(base))
    refuse_existing(out, checkpoint.directory, force=force)
    refuse_existing(out, source, force=force)
    receipt = default_receipt(out)
    refuse_inside({"--edit-out": edit_out, "--receipt": receipt}, (out, checkpoint.directory))
    edit = adapter_edit(source, checkpoint)
    notices = []
    if other := _other_files(source, checkpoint.directory):
        notices.append(f"the adapter brings other files of these names, the base's are kept: {', '.join(other)}")
    applying = Applying([edit])
    with StagedCheckpoint(checkpoint, applying, out, force=force) as written:
        proof = written.prove()
        if applying.rounding.meant:
            notices.append(applying.rounding.described)
        with kept_once_committed(written) as beside:
            write_receipt(
                receipt, {"action": "merge", **described(applying.edits, proof, written.copied, applying.rounding)}
            )
            beside.append(receipt)
            if edit_out is not None:
                save_edits(applying.edits, edit_out)
                beside.append(edit_out)
            written.commit()
    left_behind = tuple(files_left_behind(checkpoint))
    return MergeResult(out, receipt, edit_out, edit.tensors, left_behind, tuple(notices), proof)


def _other_files(adapter: Path, base: Path) -> list[str]:
    """Files that both directories hold, such as the tokenizer's, and that differ."""
    both = (path for path in sorted(adapter.iterdir()) if path.is_file() and (base / path.name).is_file())
    telling = (path for path in both if path.suffix in (".json", ".jinja", ".model", ".txt"))
    return [path.name for path in telling if file_digest(path) != file_digest(base / path.name)]
