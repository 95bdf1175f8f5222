"""The network, watched: reaching beyond this machine is refused, and written down where that is asked.

Everything that Python opens is seen by an audit hook, whoever opens it and whoever catches the error. This file is also
laid down as `sitecustomize.py` for processes of their own, so it imports nothing but the standard library.
"""

import os
import socket
import sys
from ipaddress import ip_address

LOG = "CHIP_TESTS_NETWORK_LOG"
"""Environment: a file to which a line is added for each attempt; read when a process starts, not again."""

_NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_CALLS = ("socket.connect", "socket.sendto", "socket.sendmsg")
_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None, socket.gethostname())


class NetworkIsForbiddenError(AssertionError):
    """Something reached for the network; no OSError, so that nobody takes it for a network that is down."""


def forbid() -> None:
    """Refuse the network to this process, for good: an audit hook cannot be taken away."""
    log = os.environ.get(LOG)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if (host := _reached(event, arguments)) is None:
            return
        if log:
            with open(log, "a", encoding="utf-8") as lines:
                lines.write(f"{event} {host}\n")
        raise NetworkIsForbiddenError(f"{event} to {host}: chip never uses the network")

    sys.addaudithook(watch)


def _reached(event: str, arguments: tuple[object, ...]) -> str | None:
    """The host beyond this machine that an event reaches for, or None."""
    if event in _NAMES:
        host = arguments[0]
    elif event in _CALLS:
        # A path where processes of one machine speak to each other, None where connected already.
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    else:
        return None
    if isinstance(host, bytes):
        host = host.decode("utf-8", "replace")
    return None if host in _HERE or _is_loopback(str(host)) else str(host)


def _is_loopback(host: str) -> bool:
    """Whether it is an address of this machine; a name is none, whatever it begins with."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "sitecustomize":
    forbid()
