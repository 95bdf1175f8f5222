"""How much memory is free, and how many tokens a forward pass may have for it."""

import psutil
import torch

from chip.models.loading import LoadedModel

_SHARE = 4
"""A pass may take one part in so many of what is free, and so may second moments."""

_FEWEST, _MOST_ON_CPU, _MOST = 256, 1536, 16384
"""Tokens a pass: beyond the most, a larger batch is no faster, and the same choice everywhere gives the same bytes."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def moment_budget(device: torch.device) -> int:
    """Bytes that second moments may take where nobody says: a quarter of what is free."""
    return free_memory(device) // _SHARE


def choose_batch_tokens(loaded: LoadedModel) -> int:
    """Tokens a forward pass, from what is free on the model's device: the most that help, or a power of two below.

    A token takes its keys and values in every layer, and a few times the widest activations while a layer runs.
    """
    text = loaded.model.config.get_text_config()
    layers = 1 + max(site.layer for site in loaded.sites if site.role == "language")
    widest = max(sum(site.widths(loaded.model)) for site in loaded.sites if site.role == "language")
    a_token = loaded.dtype.itemsize * (4 * widest + 2 * layers * int(text.hidden_size))
    fitting = free_memory(loaded.device) // _SHARE // a_token
    most = _MOST_ON_CPU if loaded.device.type == "cpu" else _MOST
    return most if fitting >= most else max(_FEWEST, 1 << max(fitting.bit_length() - 1, 0))
