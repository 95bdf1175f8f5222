"""What a checkpoint's files may make transformers do before a weight is read: nothing that its tensors do not bear out.

A config may ask for a billion layers, for kernels from elsewhere, for a table of a trillion labels. None of that is
built: counts are held against the tensors that the files store, while the modules are made.
"""

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint

MOST_COUNTED = 10_000
"""How many layers, experts or labels a config may name, where its files do not store more tensors than that."""
PARAMETERS_A_TENSOR = 4
"""Parameters and buffers that a module tree may have for each stored tensor: one may be stored for several in one."""
SPARE_PARAMETERS = 10_000
"""How many it may have beyond that: positions, frequencies and other things that no file stores."""
NUMBERS_A_NUMBER = 2
"""Numbers that they may hold for each stored one: a head is made before it is tied to the embeddings, which alone are
stored, and linears are made before those that dequantise take their place."""
SPARE_NUMBERS = 1 << 28
"""How many they may hold beyond that."""
UNLOADABLE = (
    *(OSError, ImportError, StrictDataclassError),
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RuntimeError),
)
"""What transformers and torch raise of files that they cannot make sense of. They check little of a config before they
calculate with it, so that most values that make no sense surface as errors of the calculation: a size below 0 as a
RuntimeError of torch's, heads that are none as a division by 0, a padding beyond the words as a failed assertion."""
_COUNT = re.compile(r"(^|_)n(um)?_(\w+_)?(layers?|experts|labels)$|(^|_)depth$")
"""Names of counts; a size, such as `vocab_size_per_layer_input`, is held against the tensors when they are made."""
_CHOOSING_CODE = ("attn_implementation", "experts_implementation", "kernel_config")


def refuse_foreign_code(checkpoint: Checkpoint) -> None:
    """Raise ChipError where a config names code that is not transformers' own, such as kernels of the hub."""
    for name, value in _entries(checkpoint.config):
        if any(one in name for one in _CHOOSING_CODE) and not _is_name(value):
            raise ChipError(
                f"{checkpoint.directory / 'config.json'} names code from elsewhere as {name}, which chip never "
                "runs; take it out"
            )


def refuse_counts(checkpoint: Checkpoint) -> None:
    """Raise ChipError where a config counts more than its files can hold."""
    most = max(MOST_COUNTED, len(checkpoint.tensors))
    for name, value in _entries(checkpoint.config):
        if type(value) is int and value > most and _COUNT.search(name):
            raise ChipError(
                f"{checkpoint.directory / 'config.json'} says that {name} is {value}, but its files store "
                f"{len(checkpoint.tensors)} tensors; correct the config"
            )


@contextmanager
def borne_out(checkpoint: Checkpoint) -> Iterator[None]:
    """While modules are made in here, they may not come to much more than the checkpoint's files store.

    Counted is the tree as it is made, on the meta device: what is loaded takes its place, and what is tied stands in
    two places, without being more. torch calls hooks for the whole process, so that what another thread makes meanwhile
    is told apart by its thread.

    Raises ChipError where they do, before the memory is taken or the next of them is made.
    """
    tensors = checkpoint.tensors.values()
    held = sum(math.prod(one.shape) for one in tensors)
    most, largest = SPARE_PARAMETERS + PARAMETERS_A_TENSOR * len(tensors), SPARE_NUMBERS + NUMBERS_A_NUMBER * held
    # Tensors by identity; they are kept, so that no other takes the identity of one that is gone, and hold no memory.
    met: dict[int, Any] = {}
    numbers, here = 0, get_ident()

    def register(_: Any, name: str, made: Any) -> None:
        nonlocal numbers
        if get_ident() != here or made is None or not made.is_meta or id(made) in met:
            return
        met[id(made)] = made
        numbers += math.prod(made.shape)
        if len(met) > most or numbers > largest:
            raise ChipError(
                f"{checkpoint.directory / 'config.json'} describes a larger model than its files store (at {name}); "
                "correct the config"
            )

    with ExitStack() as registered:
        for hook in (register_module_parameter_registration_hook, register_module_buffer_registration_hook):
            registered.callback(hook(register).remove)
        yield


def _entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Every name in a config with its value, at whatever depth."""
    waiting = [config]
    while waiting:
        one = waiting.pop()
        pairs = one.items() if isinstance(one, dict) else ()
        yield from ((str(name), value) for name, value in pairs)
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _is_name(value: Any) -> bool:
    """Whether a value names something of transformers' own, or, part by part, several such things."""
    if isinstance(value, dict):
        return all(map(_is_name, value.values()))
    return value is None or isinstance(value, bool) or (isinstance(value, str) and value.isidentifier())
