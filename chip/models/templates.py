"""A chat template is a program that comes with the model: it runs in a sandbox, and it is tried before it is trusted.

transformers renders templates in jinja's immutable sandbox, which keeps them from Python's own objects and from files.
Nothing there bounds how long they run or how much they make. So each is tried on a conversation of a word in a process
of its own that may take so much time and memory; one that ends there is not run here. The process is a fork, which
costs a few milliseconds where a fresh interpreter would cost most of a second for every model; what other threads held
when it was made stays locked in it, so that it is waited for so long and no longer.
"""

import os
import resource
import select
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress

import psutil
from jinja2 import TemplateError

from chip.errors import ChipError

LONGEST_TEMPLATE = 1 << 20
"""Characters of a chat template; the longest published ones have some 30,000."""
TRIAL_SECONDS = 2
"""Seconds of the processor that a trial may take; a template takes less than a thousandth of one."""
TRIAL_BYTES = 1 << 30
"""Memory that it may take beyond what this process has."""
TRIAL_WAIT = 60
"""Seconds on the clock that a trial is waited for, on a machine that has other things to do."""
UNRENDERABLE = (
    *(TemplateError, MemoryError, RecursionError),
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
)
"""What a template may end with that cannot be rendered: jinja's own errors, and those of the methods and filters of
texts, numbers, lists and dictionaries, which it calls with whatever it likes."""
_RENDERED, _REFUSED, _TOO_LARGE, _UNTRIED = (bytes([number]) for number in range(4))


def refuse_endless(template: object, render: Callable[[], object]) -> None:
    """Raise ChipError where `template` is no text of a sensible length, or `render`, which renders it, takes more time
    or memory than any template should, or where that cannot be tried here. What it refuses in good time is for the
    record to tell that it refuses."""
    texts = template.values() if isinstance(template, dict) else [template]
    if any(not isinstance(text, str) or len(text) > LONGEST_TEMPLATE for text in texts):
        raise ChipError(f"the model's chat template is no text, or longer than {LONGEST_TEMPLATE:,} characters")
    ended = _tried(render)
    if ended == _UNTRIED:
        raise ChipError(
            "the model's chat template could not be tried in a process of its own, within limits of its own and "
            f"{TRIAL_WAIT} s; try again where fewer things run (ulimit -a shows what a process may take)"
        )
    if ended not in (_RENDERED, _REFUSED):
        raise ChipError(
            f"the model's chat template takes more than {TRIAL_SECONDS} s or {TRIAL_BYTES >> 30} GiB to render a "
            "word; use one from a source that you trust"
        )


def _tried(render: Callable[[], object]) -> bytes:
    """How a trial ended; nothing where its process was ended. It says so itself, since a program that chip is part of
    may have its children's ends thrown away."""
    heard, told = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads that are not there in the child; it renders a text, and needs none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _try(render, told)
    os.close(told)
    try:
        ready, _, _ = select.select([heard], [], [], TRIAL_WAIT)
        return os.read(heard, 1) if ready else _UNTRIED
    finally:
        os.close(heard)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def _try(render: Callable[[], object], told: int) -> None:
    """In the process that tries: never returns, and leaves without a word and without touching what is shared."""
    ended = _UNTRIED
    try:
        _limit()
        ended = _rendered(render)
    finally:
        try:
            os.write(told, ended)
        finally:
            os._exit(0)


def _limit() -> None:
    """Bound this process by what a trial may take, and by what it may take anyhow. Raises where that fails."""
    for number in (signal.SIGINT, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    held = psutil.Process().memory_info().vms
    # Where it is ended for its time, none of this process's memory is left behind in a file.
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: TRIAL_SECONDS,
        resource.RLIMIT_AS: held + TRIAL_BYTES,
    }
    for kind, most in wanted.items():
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, hard))


def _rendered(render: Callable[[], object]) -> bytes:
    try:
        render()
    except MemoryError:
        return _TOO_LARGE
    except UNRENDERABLE:
        return _REFUSED
    return _RENDERED
