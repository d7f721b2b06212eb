"""A nats-server that grants each user its own rights only."""

from collections.abc import Iterator

import pytest

from tests.chassis.guarded import GuardedServer


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    """One server for each test."""
    server = GuardedServer(tmp_path_factory.mktemp("guarded"))
    server.start()
    yield server
    server.stop()
