"""Factuality by a judge: another language model marks each answer, where the user names one.

Off unless it is asked for: a judge is shown questions, true answers and generated ones, which are the records. It is
one on this machine, behind an OpenAI-compatible endpoint on loopback, unless the user says otherwise.
"""

import http.client
import ipaddress
import json
import os
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from chip.errors import ChipError, UsageError
from chip.hierarchy import Record

KEY = "CHIP_JUDGE_KEY"
"""The environment variable with the endpoint's key, where it wants one."""

SECONDS = 120.0
"""How long a judge may take for one answer."""

_MOST_BYTES = 1 << 20
_PORT = re.compile(r"(?:\[[^\]]*\]|[^:\[\]]+)(?::\d{1,5})?")
_MARK = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*10|of 10)?\s*\.?\s*")
_TASK = (
    "You mark how factually correct an answer is, given the true answer. Reply with one number from 0 (wrong or "
    "missing) to 10 (says all that the true answer says and nothing that contradicts it), and with nothing else."
)


@dataclass(frozen=True)
class Judge:
    """An OpenAI-compatible endpoint, such as `http://127.0.0.1:8000/v1`, and the model that it shall use.

    Raises UsageError where the endpoint is no http(s) address, or not on loopback without `allow_remote`.
    """

    endpoint: str
    model: str
    allow_remote: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint)
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"--judge holds a name or a password; give the key as {KEY} instead")
        if parts.scheme not in ("http", "https") or not parts.hostname or not _PORT.fullmatch(parts.netloc):
            raise UsageError(f"--judge {self.endpoint!r} is no address such as http://127.0.0.1:8000/v1")
        if not self.allow_remote and not _is_loopback(parts.hostname):
            raise UsageError(
                f"--judge {self.endpoint}: {parts.hostname} is not this machine, and a judge is shown questions, true "
                "answers and generated ones; serve one on 127.0.0.1, or say --allow-remote-judge"
            )

    def mark(self, record: Record, generated: str) -> float:
        """The mark of one answer, 0 to 10. Raises ChipError where the judge cannot be asked or gives none."""
        shown = f"Question: {record.question}\nTrue answer: {record.answer}\nAnswer to be marked: {generated}"
        said = self._ask([{"role": "system", "content": _TASK}, {"role": "user", "content": shown}])
        found = _MARK.fullmatch(said)
        if found is None or float(found[1]) > 10:
            raise ChipError(f"the judge at {self.endpoint} gave no mark from 0 to 10; try another --judge-model")
        return float(found[1])

    def refuse_unready(self) -> None:
        """Raise ChipError, before a model is asked anything, where the judge gives no mark. It is shown no record."""
        self.mark(Record((), question="What is two and two?", answer="Four."), "Four.")

    def _ask(self, messages: Sequence[dict[str, str]]) -> str:
        content = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": 16}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        url = self.endpoint.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(content).encode(), headers)
        # Neither a proxy nor a redirection may carry records off the machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirection())
        try:
            with opener.open(request, timeout=SECONDS) as answered:
                said = json.loads(answered.read(_MOST_BYTES))
            return str(said["choices"][0]["message"]["content"])
        except (OSError, http.client.HTTPException) as problem:
            why = getattr(problem, "reason", None) or problem
            raise ChipError(
                f"the judge at {self.endpoint} cannot be asked ({why}); serve one there, or leave --judge out"
            ) from problem
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as problem:
            raise ChipError(f"the judge at {self.endpoint} does not answer as OpenAI's interface does") from problem


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Answers with the redirection itself, as an error."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
