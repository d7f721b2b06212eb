"""Secrets never leave: everything that is recorded, logged or raised passes through here."""

import base64
import logging
import re
from collections.abc import Iterable
from typing import cast
from urllib.parse import quote

import structlog

MARK = "[secret]"

# What looks like a credential even though this process was not told of it.
_LOOKS_SECRET = re.compile(
    r"\bsk-[A-Za-z0-9_\-]{16,}|(?<=Bearer )[A-Za-z0-9._~+/\-]{8,}=*|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
)
_STARTS = ("sk-", "Bearer ", "://")
_SHORTEST = 4  # a "secret" shorter than this would blank out ordinary text


class Scrubber:
    """Replaces known secrets, in plain, URL-quoted and Base64 spelling, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {spelling for secret in secrets if len(secret) >= _SHORTEST for spelling in _spellings(secret)}
        self._known = sorted(spellings, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Scrubber({len(self._known)} spellings)"

    def text(self, text: str) -> str:
        """`text` without secrets."""
        for secret in self._known:
            text = text.replace(secret, MARK)
        # The pattern is slow on long prompts, and hardly any of them holds one of its beginnings.
        return _LOOKS_SECRET.sub(MARK, text) if any(start in text for start in _STARTS) else text

    def filter(self, record: logging.LogRecord) -> bool:
        """A logging filter: the finished message of a record, without secrets."""
        record.msg, record.args = self.text(record.getMessage()), ()
        return True

    def processor(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """A structlog processor: every text in an entry, at any depth, without secrets."""
        return {key: self._any(value) for key, value in event.items()}

    def _any(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self._any(key): self._any(inner) for key, inner in cast("dict[object, object]", value).items()}
        if isinstance(value, list | tuple):
            return [self._any(inner) for inner in value]
        return value


def _spellings(secret: str) -> tuple[str, ...]:
    return secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()
