"""A whole deployment as processes: every service its own NATS user, everything encrypted, measured and traced."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from prometheus_client.parser import text_string_to_metric_families

from services.chassis.bus.access import ADMINISTRATOR
from services.chassis.rpc import channel
from services.chassis.settings import SERVICES
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.contracts.candidate_pb2 import Candidate
from services.local.log import start_run
from services.local.plan import RunOptions, run_settings
from services.local.processes import ServiceProcess, free_port
from services.local.settings import ClientSettings
from services.store.app import StoreSettings
from services.store.tools import set_up
from tests.chassis.collector import Collector
from tests.chassis.nats_server import NatsServer
from tests.loop.conftest import MICRO
from tests.loop.test_minds import SCRIPT

RUN = "guarded"
FLAGS = RunOptions(mind="openai", candidates=1, baselines=("delta_net", "linear_attention"), overrides=MICRO)
ADDRESSES = {"store": "archive", "engineer": "checker", "analyst": "cognition", "judge": "judge"}
MIND = '[models.one]\nname = "scripted-model"\nprice_prompt = 2.0\nprice_completion = 8.0\n' + "".join(
    f'[roles.{role}]\nmodels = ["one"]\n'
    for role in ("propose", "judge_novelty", "revise", "score", "analyse", "extract")
)
Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class System:
    """Five services on a broker that lets each do its own work only."""

    broker: NatsServer
    certificates: Path
    folder: Path
    model_url: str
    collector: Collector = field(default_factory=Collector)
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in SERVICES})
    exporters: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in SERVICES})
    services: dict[str, ServiceProcess] = field(default_factory=dict)

    async def start(self) -> None:
        """Set up as the administrator, then start the services; none of them may create anything."""
        admin = self.broker.settings(ADMINISTRATOR, **self._tls("console")).model_dump(exclude_none=True)
        report = await set_up(StoreSettings.model_validate(admin | {"data_dir": self.folder}), create=True)
        assert not report.differences
        (self.folder / "mind.toml").write_text(MIND)
        for name in SERVICES:
            process = ServiceProcess(name, self._environment(name), self.folder / f"{name}.log")
            self.services[name] = process
            process.start()

    async def run(self, seconds: float) -> tuple[pb.RunStatus, list[Candidate]]:
        """One run from its beginning to its end, asked for as the console; its status and records."""
        settings = self.console
        async with channel(settings.archive_address, settings) as connection:
            archive = archive_pb2_grpc.ArchiveStub(connection)
            await archive.ListRuns(pb.ListRunsRequest(), timeout=60)  # waits until the store is up
            await start_run(settings, RUN, run_settings(FLAGS))
            deadline = asyncio.get_running_loop().time() + seconds
            while (about := await self._status(archive)) is None or about.phase != "finished":
                assert asyncio.get_running_loop().time() < deadline, f"not finished: {about}"
                assert all(service.process and service.process.poll() is None for service in self.services.values())
                await asyncio.sleep(0.5)
            page = await archive.ListCandidates(pb.ListCandidatesRequest(run=RUN, page_size=100), timeout=30)
            return about, list(page.candidates)

    def scrape(self) -> Series:
        """What all services export, added up by name and labels, as a dashboard would."""
        series: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for port in self.exporters.values():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                text = page.read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples if family.name.startswith("asi_") else ():
                    key = sample.name, frozenset(sample.labels.items())
                    series[key] = series.get(key, 0.0) + sample.value
        return series

    def stop(self) -> None:
        """Drain all: the last spans are exported then."""
        for process in self.services.values():
            process.terminate()
        for process in self.services.values():
            process.wait(30)
        self.collector.stop()

    def logs(self) -> list[dict[str, object]]:
        """Every line that a service logged."""
        lines = [line for name in self.services for line in (self.folder / f"{name}.log").read_text().splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def console(self) -> ClientSettings:
        """The settings of whoever starts a run."""
        shared = self.broker.settings("console", **self._tls("console"), **self._addresses())
        return ClientSettings.model_validate(shared.model_dump(exclude_none=True))

    async def _status(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> pb.RunStatus | None:
        try:
            return await archive.GetRun(pb.RunRequest(run=RUN), timeout=5)
        except grpc.aio.AioRpcError:
            return None

    def _tls(self, name: str) -> dict[str, object]:
        own = self.certificates / name
        files: dict[str, object] = {"ca": own / "ca.crt", "cert": own / "tls.crt", "key": own / "tls.key"}
        return {f"grpc_{part}": path for part, path in files.items()} | {"nats_ca": own / "ca.crt"}

    def _addresses(self) -> dict[str, object]:
        return {f"{what}_address": f"127.0.0.1:{self.ports[name]}" for name, what in ADDRESSES.items()}

    def _environment(self, name: str) -> dict[str, str]:
        values = {
            **self._tls(name),
            **self._addresses(),
            "nats_url": self.broker.url,
            "nats_nkey_seed": self.broker.seeds[name],
            "data_dir": self.folder,
            "listen": f"127.0.0.1:{self.ports[name]}",
            "metrics_listen": f"127.0.0.1:{self.exporters[name]}",
            "otlp_endpoint": f"http://127.0.0.1:{self.collector.port}",
            "mind_file": self.folder / "mind.toml",
        }
        mind = {"OPENAI_BASE_URL": self.model_url, "OPENAI_API_KEY": "sk-test", "OMP_NUM_THREADS": "1"}
        return {f"ASI_{key.upper()}": str(value) for key, value in values.items()} | mind


def scripted_model(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """An endpoint that answers from a script, and its address."""
    script = folder / "script.json"
    script.write_text(json.dumps(SCRIPT))
    server = subprocess.Popen(
        [sys.executable, "-m", "services.llm.scripted", "--port", "0", "--script", script],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    return server, server.stdout.readline().strip()
