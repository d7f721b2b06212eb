"""A broker that may lose acknowledged events is refused if it is ours, and gives a warning otherwise."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.chassis.bus import Bus
from services.chassis.bus.topology import require_durability
from services.chassis.errors import BusLost, SettingsError
from services.chassis.settings import ServiceSettings
from services.local.processes import Broker, free_port


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[Broker]:
    """A broker with default settings."""
    broker = Broker(tmp_path / "nats", sync=False)
    broker.start()
    yield broker
    broker.stop()


def _settings(broker: Broker, ours: bool) -> ServiceSettings:
    return ServiceSettings(nats_url=broker.url, nats_monitor_url=broker.monitor_url, require_durable_broker=ours)


async def test_our_own_broker_syncs_and_is_accepted(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real server says so itself, and not through a proxy."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    async with Bus(_settings(broker, ours=True), "tests") as bus:
        await require_durability(_settings(broker, ours=True), bus.server_version)


async def test_a_broker_that_does_not_sync_is_refused_or_reported(careless: Broker) -> None:
    """Depending on its owner."""
    with pytest.raises(SettingsError, match="sync_interval: always"):
        await require_durability(_settings(careless, ours=True), (2, 11, 0))
    with capture_logs() as logs:
        await require_durability(_settings(careless, ours=False), (2, 11, 0))
    assert [(line["log_level"], "sync_interval" in line["reason"]) for line in logs] == [("warning", True)]


@pytest.mark.parametrize("monitor", [None, f"http://127.0.0.1:{free_port()}"], ids=["not named", "silent"])
async def test_a_foreign_broker_without_monitoring_gives_a_warning(monitor: str | None) -> None:
    """As on Kubernetes, where the broker's configuration is unknown."""
    with capture_logs() as logs:
        await require_durability(ServiceSettings(nats_monitor_url=monitor), (2, 11, 0))

    assert [(line["log_level"], "ASI_NATS_MONITOR_URL" in line["reason"]) for line in logs] == [("warning", True)]


async def test_an_old_broker_is_refused(broker: Broker) -> None:
    """With the version that is needed."""
    with pytest.raises(SettingsError, match=r"nats-server 2\.10\.22, and 2\.10\.23 is needed"):
        await require_durability(_settings(broker, ours=True), (2, 10, 22))


async def test_a_server_of_a_cluster_may_be_down(broker: Broker, careless: Broker) -> None:
    """The other servers answer, and each that answers must sync."""
    down = f"http://127.0.0.1:{free_port()}"

    def told_by(*monitors: str) -> ServiceSettings:
        return ServiceSettings(nats_monitor_url=", ".join(monitors), require_durable_broker=True)

    await require_durability(told_by(down, broker.monitor_url), (2, 11, 0))
    with pytest.raises(SettingsError, match="sync_interval: always"):
        await require_durability(told_by(down, broker.monitor_url, careless.monitor_url), (2, 11, 0))
    with pytest.raises(BusLost, match=f"does not answer at {down}"):
        await require_durability(told_by(down), (2, 11, 0))


async def test_a_local_broker_without_monitoring_is_refused() -> None:
    """Its durability is unknown, so it is refused."""
    with pytest.raises(SettingsError, match="ASI_NATS_MONITOR_URL"):
        await require_durability(ServiceSettings(require_durable_broker=True), (2, 11, 0))
