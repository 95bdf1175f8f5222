"""Names: a parameter's in the module tree and a tensor's in the files differ by what stands before them. No torch."""

from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.matrix import Matrix


def find_stored(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Matrix:
    """The stored tensor of a parameter's shape whose name shares the longest ending with the parameter's; of several,
    the one that shares most of the other parts of its name too.

    Raises ChipError where there is none, or more than one.
    """
    parts = name.split(".")
    for start in range(len(parts) - 1):
        ending = ".".join(parts[start:])
        found = [
            key
            for key, tensor in checkpoint.tensors.items()
            if (key == ending or key.endswith("." + ending)) and tensor.shape == shape
        ]
        shared = [len(set(key.split(".")) & set(parts)) for key in found]
        found = [key for key, number in zip(found, shared, strict=True) if number == max(shared)]
        if len(found) == 1:
            return checkpoint.matrix(found[0])
        if found:
            raise ChipError(f"several stored tensors may be {name}: {', '.join(found)}")
    raise ChipError(f"{checkpoint.directory} stores no tensor for {name}")
