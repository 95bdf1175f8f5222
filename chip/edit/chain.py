"""Which edits may be applied to which weights: each to those that it was solved on, as digests prove."""

from collections.abc import Mapping, Sequence

from chip.edit.edit import Edit
from chip.edit.threads import each
from chip.edit.transfer import transferred
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint


def fitting(
    base: Checkpoint, edits: Sequence[Edit], after: Sequence[Edit] = (), *, transfer: bool = False, hint: str = ""
) -> tuple[Edit, ...]:
    """The edits as they are applied to a checkpoint, in their order.

    An edit fits where each of its tensors is as it was when the edit was solved: as in the checkpoint now, as one of
    the edits before leaves it, or as it was before those in `after`, which the checkpoint already carries. With
    `transfer` an edit that does not fit is derived anew for these weights.

    Raises ChipError where an edit does not fit (`hint` says what to do about it), where the checkpoint carries it
    already, and where it does not carry what `after` says.
    """
    applied = [edit.identity for edit in (*after, *edits)]
    if twice := next((one for one in applied if applied.count(one) > 1), None):
        raise ChipError(f"one edit was given twice ({twice[:12]}…); it would be applied twice")
    names = [name for name in dict.fromkeys(name for edit in edits for name in edit.tensors) if name in base.tensors]
    size = sum(base.tensors[name].stop - base.tensors[name].start for name in names)
    digests = each(lambda name: base.matrix(name).digest(), names, size)
    known = {name: {digest} for name, digest in zip(names, digests, strict=True)}
    for name, digest in _left(after).items():
        if name in base.tensors and base.matrix(name).digest() != digest:
            raise ChipError(f"{base.directory} does not carry what --after names: {name} is not as it would leave it")
    for edit in after:
        _widen(known, edit.base)
    found = []
    for number, edit in enumerate(edits):
        odd = next((name for name in edit.tensors if edit.base.get(name) not in known.get(name, ())), None)
        if odd is None:
            found.append(edit)
        elif edit.edited and all(digest in known.get(name, ()) for name, digest in edit.edited.items()):
            raise ChipError(f"{base.directory} carries edit {number + 1} already; give the model as it was before it")
        elif not transfer:
            raise ChipError(
                f"edit {number + 1} was solved on other weights than those of {base.directory} ({odd} differs){hint}"
            )
        elif set(edit.after) & {one.identity for one in edits}:
            raise ChipError(
                f"edit {number + 1} was solved on what another of these edits leaves; transfer them one after the other"
            )
        else:
            found.append(transferred(edit, base))
        # What is derived anew leaves nothing that is known: what was solved on what it left elsewhere does not fit.
        _widen(known, found[-1].edited)
    return tuple(found)


def _left(edits: Sequence[Edit]) -> dict[str, str]:
    """How a chain of edits leaves the tensors that it changes."""
    return {name: digest for edit in edits for name, digest in edit.edited.items()}


def _widen(known: dict[str, set[str]], digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        known.setdefault(name, set()).add(digest)
