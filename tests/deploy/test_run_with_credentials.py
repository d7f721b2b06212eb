"""`asi-arch run` beside a broker that lets each user do its own work only: the services get a seed each."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.chassis.bus.access import ADMINISTRATOR, seed_variable
from services.chassis.settings import SERVICES
from services.local.processes import ServiceProcess
from tests.chassis.nats_server import NatsServer
from tests.console.conftest import bare_environment
from tests.loop.conftest import UNREPEATED, micro_flags, rows_of

RUN = ("run", "--json", "--candidates", "1", "--baselines", "delta_net", *micro_flags(), *UNREPEATED)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsServer]:
    """With a user for everybody."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_a_run_beside_a_guarded_broker_hands_every_service_its_own_seed(broker: NatsServer, tmp_path: Path) -> None:
    """Before the streams are there, the sentence says how to get them."""
    seeds = {seed_variable(name): broker.seeds[name] for name in SERVICES}
    environment = bare_environment(tmp_path / "data", ASI_NATS_URL=broker.url, **seeds)

    def asi_arch(user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.console", *arguments], capture_output=True, text=True, timeout=200,
            env=environment | {"ASI_NATS_NKEY_SEED": broker.seeds[user]}, check=False,
        )  # fmt: skip

    early = asi_arch("console", *RUN)
    setup = asi_arch(ADMINISTRATOR, "setup")
    done = asi_arch("console", *RUN)

    assert early.returncode == 2
    assert "asi-arch: store: stream EVENTS does not exist; run `asi-arch setup`" in early.stderr
    assert setup.returncode == 0, setup.stderr
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in rows_of(done)] == ["archived", "archived"]


def test_a_service_gets_its_own_seed_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engineer runs strangers' programs: what it does not have, nobody can take from it."""
    for name in (*SERVICES, "console"):
        monkeypatch.setenv(seed_variable(name), f"SU-of-the-{name}")
    engineer = ServiceProcess("engineer", {}, tmp_path / "engineer.log")
    engineer.start()
    assert engineer.process is not None
    environment = Path(f"/proc/{engineer.process.pid}/environ")
    while not (variables := environment.read_bytes().decode().split("\0"))[0]:  # empty while the process calls exec
        assert engineer.process.poll() is None
    engineer.terminate()
    engineer.wait(20)

    assert [entry for entry in variables if "SU-of-the-" in entry] == ["ASI_NATS_NKEY_SEED=SU-of-the-engineer"]
