"""These tests may not connect to other machines."""

import pytest

from services.llm.exchange import forbid_outside_calls


@pytest.fixture(autouse=True)
def _no_outside_calls() -> None:
    forbid_outside_calls()
