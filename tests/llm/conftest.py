"""These tests may not connect to other machines."""

from typing import Any
from urllib.parse import urlsplit

import openai
import pytest


@pytest.fixture(autouse=True)
def _no_outside_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = openai.AsyncOpenAI.__init__

    def connect_here(self: openai.AsyncOpenAI, *, base_url: str, **options: Any) -> None:
        if urlsplit(base_url).hostname not in ("127.0.0.1", "localhost"):
            pytest.fail(f"a test connects to {base_url}, which is not on this machine")
        connect(self, base_url=base_url, **options)

    monkeypatch.setattr(openai.AsyncOpenAI, "__init__", connect_here)
