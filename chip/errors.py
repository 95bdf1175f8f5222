"""The one exception that chip raises for bad input: one sentence that names what, where and the next step."""


class ChipError(Exception):
    """Bad input or a request that cannot be met; the command line prints it without a traceback and exits with 1."""
