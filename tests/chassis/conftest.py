"""A nats-server that grants each user its own rights only."""

from collections.abc import Iterator

import pytest

from tests.chassis.nats_server import NatsServer


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for each test."""
    server = NatsServer(tmp_path_factory.mktemp("guarded"))
    server.start()
    yield server
    server.stop()
