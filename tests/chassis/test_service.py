"""The start of a service: its settings are checked before the broker is waited for, and the wait can be ended."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.analyst.app import AnalystSettings
from services.chassis import metrics
from services.chassis.errors import SettingsError
from services.chassis.rpc import key_files
from services.chassis.service import Service, wired
from services.chassis.settings import ServiceSettings, load
from services.engineer.settings import EngineerSettings
from services.judge.app import JudgeSettings
from services.local.processes import free_port
from services.researcher.app import ResearcherSettings
from services.store.app import StoreSettings


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """Of a service whose broker does not answer."""
    return {
        "PATH": os.environ["PATH"], "ASI_DATA_DIR": str(tmp_path), "ASI_NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "CUDA_VISIBLE_DEVICES": "", **variables,
    }  # fmt: skip


async def start(service: str, variables: dict[str, str]) -> asyncio.subprocess.Process:
    """The service as a process."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{service}", env=variables, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize(
    ("service", "variable", "value", "message"),
    [
        ("engineer", "ASI_ENGINEER_MPS", "{folder}/none", "ASI_ENGINEER_MPS={folder}/none is no folder"),
        ("engineer", "ASI_ENGINEER_DEVICE", "cuda", "ASI_ENGINEER_DEVICE=cuda: torch finds no GPU here"),
        ("judge", "ASI_ARTIFACTS_URL", "s4://bucket", "ASI_ARTIFACTS_URL='s4://bucket' cannot be opened"),
        ("judge", "ASI_ARTIFACTS_URL", "{folder}/file/x", "ASI_ARTIFACTS_URL={folder}/file/x cannot be written"),
        (
            "judge",
            "ASI_OTLP_ENDPOINT",
            "collector:4317",
            "ASI_OTLP_ENDPOINT='collector:4317' is invalid: begin it with",
        ),
        ("judge", "ASI_MIND_FILE", "{folder}/none", "ASI_MIND_FILE={folder}/none cannot be read"),
        ("judge", "ASI_SILENCE_SECONDS", "inf", "ASI_SILENCE_SECONDS='inf' is invalid"),
        ("researcher", "ASI_EMBEDDER", "mine", "ASI_EMBEDDER='mine' is invalid: choose local or openai"),
        (
            "analyst",
            "ASI_ANALYST_COGNITION_DIR",
            "{folder}/file",
            "ASI_ANALYST_COGNITION_DIR={folder}/file is no folder",
        ),
        ("analyst", "ASI_ANALYST_COGNITION_DIR", "{folder}", "ASI_ANALYST_COGNITION_DIR={folder}: bad.toml"),
        ("store", "ASI_ARCHIVE_URL", "mongodb://host:99999/x", "ASI_ARCHIVE_URL is no MongoDB address: Port must be"),
        ("store", "ASI_ARCHIVE_URL", "sqlite:///{folder}/file/x.db", "is no file: {folder}/file is a file."),
    ],
)
async def test_a_wrong_setting_is_named_although_the_broker_is_down(
    tmp_path: Path, service: str, variable: str, value: str, message: str
) -> None:
    """With the status of settings: who starts services side by side would look at the broker first."""
    (tmp_path / "file").touch()
    (tmp_path / "bad.toml").write_text("x = [")
    starting = await start(service, environment(tmp_path, **{variable: value.format(folder=tmp_path)}))
    try:
        _, error = await asyncio.wait_for(starting.communicate(), 60)
    finally:
        if starting.returncode is None:
            starting.kill()

    assert starting.returncode == 2
    assert message.format(folder=tmp_path) in error.decode()
    assert "Traceback" not in error.decode()


async def test_a_service_that_waits_for_its_broker_ends_when_it_is_told_to(tmp_path: Path) -> None:
    """Nothing is in hand, so there is nothing to drain: it took the whole grace time and fifteen seconds."""
    url = f"nats://127.0.0.1:{free_port()}"
    secret = url.replace("//", "//user:password@")
    waiting = await start("judge", environment(tmp_path, ASI_NATS_URL=secret))
    assert waiting.stderr is not None
    line = json.loads(await asyncio.wait_for(waiting.stderr.readline(), 60))
    assert (line["event"], line["servers"]) == ("NATS error", url)
    waiting.send_signal(signal.SIGTERM)

    assert await asyncio.wait_for(waiting.wait(), 15) == 0


def test_a_variable_that_is_set_but_empty_counts_as_unset(tmp_path: Path) -> None:
    """As scripts and compose files pass it. An empty folder was the current one, an empty file a folder."""
    empty = {f"ASI_{field.upper()}": " " for field in ServiceSettings.model_fields} | {"ASI_NOT_A_SETTING": ""}
    code = "import services, os; print([name for name in os.environ if name.startswith('ASI_')])"
    shown = subprocess.run([sys.executable, "-c", code], env=empty, capture_output=True, text=True, check=True)

    assert load(ServiceSettings, "judge", empty) == ServiceSettings()
    assert shown.stdout == "[]\n"


@pytest.mark.parametrize("kind", [AnalystSettings, EngineerSettings, JudgeSettings, ResearcherSettings, StoreSettings])
def test_every_setting_says_what_it_means(kind: type[ServiceSettings]) -> None:
    """The help of a service is the only list of them."""
    assert [name for name, field in kind.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("service", [pytest.param("engineer", marks=pytest.mark.slow), "judge", "store"])
def test_help_lists_all_settings_and_starts_nothing(service: str, tmp_path: Path) -> None:
    """The only list of them; a service that ignores its arguments would wait for a broker."""
    command = [sys.executable, "-m", f"services.{service}"]
    shown, refused = (
        subprocess.run(
            [*command, flag], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
        )
        for flag in ("--help", "--stages=tiny")
    )

    own = {"engineer": "ASI_ENGINEER_TEXT_SEED", "store": "ASI_ARCHIVE_URL"}.get(service, "_PARALLEL\n")
    assert shown.returncode == 0
    assert own in shown.stdout
    assert (
        "ASI_NATS_URL\n    address of NATS; of a cluster all, commas between them [nats://127.0.0.1:4222]"
        in shown.stdout
    )
    assert "None" not in shown.stdout
    assert refused.returncode == 2
    assert refused.stderr.startswith("--stages=tiny is not understood: see `python -m services.")


@pytest.mark.parametrize("service", [pytest.param("engineer", marks=pytest.mark.slow), "judge", "store"])
async def test_a_service_that_is_interrupted_while_it_is_imported_ends_without_a_traceback(
    tmp_path: Path, service: str
) -> None:
    """Imports take a second. (The signal comes with one of the first modules.)"""
    (tmp_path / "structlog.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)"
    )
    starting = await start(service, environment(tmp_path, PYTHONPATH=str(tmp_path)))
    _, error = await asyncio.wait_for(starting.communicate(), 60)

    assert error.decode() == ""
    assert starting.returncode == -signal.SIGINT


def test_a_taken_port_of_metrics_is_named_with_its_setting() -> None:
    """The number of an error is no help among several ports."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"ASI_METRICS_LISTEN={listen}: Address already in use"):
            metrics.serve(listen)


async def test_certificates_are_read_before_the_broker_is_waited_for(tmp_path: Path) -> None:
    """A path that does not exist would otherwise end as an error of this machine."""
    pem = tmp_path / "pem"
    pem.write_text("no certificate")
    settings = ServiceSettings(nats_url=f"nats://127.0.0.1:{free_port()}", grpc_ca=pem, grpc_cert=pem, grpc_key=pem)

    def build(service: Service, settings: ServiceSettings) -> None:
        raise AssertionError("nothing is built")

    with pytest.raises(SettingsError, match="ASI_GRPC_CA, ASI_GRPC_CERT or ASI_GRPC_KEY cannot be used"):
        async with asyncio.timeout(20), wired("judge", settings, build):  # type: ignore[arg-type]
            pass
    with pytest.raises(SettingsError, match="No such file"):
        key_files(settings.model_copy(update={"grpc_ca": tmp_path / "none"}))
