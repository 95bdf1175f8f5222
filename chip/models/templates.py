"""A chat template is a program that comes with the model: it runs in a sandbox, and it is tried before it is trusted.

transformers renders templates in jinja's immutable sandbox, which keeps them from Python's own objects and from files.
Nothing there bounds how long they run or how much they make. So each is tried on a conversation of a word in a process
of its own that may take so much time and memory; one that ends there is not run here.
"""

import os
import resource
import signal
import warnings
from collections.abc import Callable

import psutil
from jinja2 import TemplateError

from chip.errors import ChipError

LONGEST_TEMPLATE = 1 << 20
"""Characters of a chat template; the longest published ones have some 30,000."""
TRIAL_SECONDS = 2
"""Seconds of the processor that a trial may take; a template takes less than a thousandth of one."""
TRIAL_BYTES = 1 << 30
"""Memory that it may take beyond what this process has."""
UNRENDERABLE = (
    *(TemplateError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError),
    MemoryError,
)
"""What a template may end with that cannot be rendered."""
_RENDERED, _REFUSED, _TOO_LARGE = range(3)


def refuse_endless(template: object, render: Callable[[], object]) -> None:
    """Raise ChipError where `template` is no text of a sensible length, or `render`, which renders it, takes more time
    or memory than any template should. What it refuses in good time is for the record to tell that it refuses."""
    texts = template.values() if isinstance(template, dict) else [template]
    if any(not isinstance(text, str) or len(text) > LONGEST_TEMPLATE for text in texts):
        raise ChipError(f"the model's chat template is no text, or longer than {LONGEST_TEMPLATE:,} characters")
    with warnings.catch_warnings():
        # Python warns of threads that are not there in the child; it renders a text, and needs none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _try(render)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) not in (_RENDERED, _REFUSED):
        raise ChipError(
            f"the model's chat template takes more than {TRIAL_SECONDS} s or {TRIAL_BYTES >> 30} GiB to render a "
            "word; use one from a source that you trust"
        )


def _try(render: Callable[[], object]) -> None:
    """In the process that tries: never returns, and leaves without a word and without touching what is shared."""
    code = _REFUSED
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (TRIAL_SECONDS, hard))
        held = psutil.Process().memory_info().vms
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (held + TRIAL_BYTES, hard))
        render()
        code = _RENDERED
    except MemoryError:
        code = _TOO_LARGE
    except UNRENDERABLE:
        pass
    finally:
        os._exit(code)
