"""Real servers for tests: a nats-server for each, a mongod per session."""

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import pytest_asyncio

from services.chassis.bus import Bus
from services.chassis.settings import ServiceSettings
from services.console.local.broker import Broker
from tests.mongod import Mongod, mongod_binary

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it runs in the background, and children inherit it; some tests press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A nats-server with JetStream that no other test has used.

    It is up in a few hundredths of a second, and streams of a shared one cannot be made anew in safety: nats-server
    clears away what was deleted after it has said so, which now and then takes the new stream's folder with it.
    """
    server = Broker(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """One MongoDB for the whole session, or a skip with a sentence on how to get one."""
    server = Mongod(mongod_binary(), tmp_path_factory.mktemp("mongod"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def nats_url(broker: Broker) -> str:
    """Where this test's nats-server listens."""
    return broker.url


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> ServiceSettings:
    """What every service needs to know, with a data folder of this test's own."""
    return ServiceSettings(nats_url=broker.url, data_dir=tmp_path, create_streams=True)


@pytest_asyncio.fixture
async def bus(settings: ServiceSettings) -> AsyncIterator[Bus]:
    """A connection to a server with empty streams."""
    async with Bus(settings, "tests") as connected:
        await connected.set_up()
        yield connected


def _programs_packages() -> dict[str, ModuleType]:
    names = ("fla", "transformers")
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}


@pytest.fixture(scope="module")
def guest() -> Iterator[None]:
    """This process as programs find a sandboxed child; afterwards as it was: others use the real packages."""
    import torch

    from services.engineer.program import prepare_guest

    before, compiler = _programs_packages(), torch.compile
    for name in before:
        del sys.modules[name]
    prepare_guest()
    yield
    for name in _programs_packages():
        del sys.modules[name]
    sys.modules.update(before)
    torch.compile = compiler
