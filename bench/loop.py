"""The overhead of the loop per candidate: real NATS, gRPC, SQLite and services, with instant proposals and trainings.

    python -m bench.loop [--candidates 100 2000] [--marks 1000 2000 4000]
Prints milliseconds per candidate from request to archive, with one candidate at a time (seats = 1) and with eight in
flight, the CPU time of each process (this one acts as researcher and engineer), which depends less on load, and its
resident memory at the end. The limits are 30 ms with one and 15 ms with eight in flight, independent
of the number of candidates. Marks print the same for the candidates between two marks, and the memory at each mark.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from services.chassis import logs
from services.chassis.bus import Bus
from services.chassis.bus.topology import engineer_durable
from services.chassis.errors import Rejected
from services.chassis.events import first, follow
from services.chassis.rpc import channel
from services.chassis.service import Service, run_on_uvloop, wired
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import (
    archive_pb2,
    archive_pb2_grpc,
    candidate_pb2,
    checker_pb2,
    checker_pb2_grpc,
    cognition_pb2,
    cognition_pb2_grpc,
    events_pb2,
)
from services.contracts import candidate_pb2 as pb
from services.domain.zoo import baseline
from services.llm.embedder import LocalEmbedder
from services.llm.openai_embedder import MotivationEmbedder
from services.local.processes import Broker, ServiceProcess, free_port
from services.researcher.app import ResearcherSettings
from services.researcher.draft import Context, Draft, Refusal
from services.researcher.handlers import Researcher


class InstantChecker(checker_pb2_grpc.CheckerServicer):
    """Everything passes."""

    async def Check(self, request: object, context: object) -> candidate_pb2.CheckReport:  # noqa: N802, ARG002
        return candidate_pb2.CheckReport(passed=True, seconds=0.0)

    async def Profile(self, request: object, context: object) -> checker_pb2.MachineProfile:  # noqa: N802, ARG002
        return checker_pb2.MachineProfile(precision="fp32")

    async def Describe(self, request: object, context: object) -> checker_pb2.ScaleDescription:  # noqa: N802, ARG002
        return checker_pb2.ScaleDescription()

    async def Trial(self, request: object, context: object) -> checker_pb2.TrialReport:  # noqa: N802, ARG002
        return checker_pb2.TrialReport()


class InstantProposer:
    """A unique program: it differs by one constant."""

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:  # noqa: ARG002
        number = context.record.request.number
        program = baseline("delta_net").program + f"\n\nSCALE = ({number}, {number % 7})\n" + "x = 1\n" * (number % 13)
        return Draft(f"Instant{number}", f"Idea {number} of a benchmark.", program, ("delta-rule",))

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:  # noqa: ARG002
        return ""

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:  # noqa: ARG002
        """Refused: this run has no ablations."""
        raise Rejected("propose", "the benchmark requests no ablations")


async def train(job: Job) -> Sequence[events_pb2.Event]:
    """Claimed by its first and only delivery."""
    claim = follow(job.cause, "claimed", "engineer", job.attempt, job.event.candidate)
    claim.candidate_claimed.worker = "bench"
    await job.bus.publish(claim)
    return [instant_result(job, job.attempt)]


def instant_result(job: Job, attempt: int) -> events_pb2.Event:
    """An invented training of realistic size."""
    number = int(job.event.candidate.removeprefix("c"))
    loss = 1.5 - 0.2 * ((number * 7919) % 1000) / 1000
    seed = pb.SeedResult(
        seed=1,
        loss=loss,
        curve=[pb.CurvePoint(step=step, tokens=step * 2048, train_loss=3 - step / 300) for step in range(0, 600, 20)],
        scores=[pb.TaskScore(task="code", metric="acc", value=0.5, stderr=0.05, items=100)],
        measurements=pb.Measurements(
            parameters=398_016, tokens_per_second=16_000, seconds=0.0, device="cpu", data_fingerprint="bench"
        ),
    )  # fmt: skip
    training = pb.Training(seeds=[seed], loss=loss, benchmark=0.5, attempt=attempt)
    event = follow(job.cause, "trained", "engineer", attempt, job.event.candidate)
    event.candidate_trained.CopyFrom(events_pb2.CandidateTrained(training=training, stage="tiny"))
    return event


@dataclass(frozen=True)
class System:
    """A running system: its bus, its archive, and its processes by name."""

    bus: Bus
    archive: archive_pb2_grpc.ArchiveAsyncStub
    pids: Mapping[str, int]

    def cpu_seconds(self) -> dict[str, float]:
        """The CPU time of each process since its start, from /proc."""
        fields = {
            name: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for name, pid in self.pids.items()
        }
        return {name: (int(part[11]) + int(part[12])) / os.sysconf("SC_CLK_TCK") for name, part in fields.items()}

    def resident_mib(self) -> dict[str, int]:
        """The memory of each process."""
        page = os.sysconf("SC_PAGE_SIZE")
        return {
            name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page >> 20 for name, pid in self.pids.items()
        }


@dataclass(frozen=True)
class Cost:
    """The measurements of a run."""

    candidates: int
    seats: int
    ms: float  # elapsed, per candidate
    cpu_ms: Mapping[str, float]  # per candidate, by process
    mib: Mapping[str, int]

    def __str__(self) -> str:
        cpu = ", ".join(f"{name} {ms:.1f}" for name, ms in self.cpu_ms.items())
        memory = ", ".join(f"{name} {mib}" for name, mib in self.mib.items())
        return (
            f"{self.candidates:>6} candidates, {self.seats} in flight: {self.ms:.1f} ms each, "
            f"CPU {sum(self.cpu_ms.values()):.1f} ms ({cpu}), MiB at the end: {memory}"
        )


@dataclass(frozen=True)
class _Moment:
    """The number of ended candidates, and the used time."""

    ended: int
    time: float
    cpu: Mapping[str, float]

    @classmethod
    def of(cls, system: System, ended: int) -> _Moment:
        return cls(ended, time.perf_counter(), system.cpu_seconds())

    def since(self, before: _Moment, seats: int, system: System) -> Cost:
        """The cost of the candidates between two moments; the memory is the current one."""
        count = self.ended - before.ended
        cpu = {name: 1000 * (seconds - before.cpu[name]) / count for name, seconds in self.cpu.items()}
        return Cost(count, seats, 1000 * (self.time - before.time) / count, cpu, system.resident_mib())


@asynccontextmanager
async def running_system(folder: Path) -> AsyncIterator[System]:
    """Store, judge and analyst as processes; the scripted researcher and engineer in this process."""
    broker = Broker(folder / "nats")
    broker.start()
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("archive", "checker", "cognition", "judge")}
    addresses = {f"{name}_address": address for name, address in ports.items()}
    shared = {"nats_url": broker.url, "data_dir": folder, "create_streams": True, "log_level": "error", **addresses}
    variables = {f"ASI_{name.upper()}": str(value) for name, value in shared.items()}
    processes = [
        ServiceProcess(name, {**variables, "ASI_LISTEN": ports[port]}, folder / f"{name}.log")
        for name, port in (("store", "archive"), ("judge", "judge"), ("analyst", "cognition"))
    ]
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(channel(ports["archive"], ServiceSettings(**shared)))
        archive = archive_pb2_grpc.ArchiveStub(connection)
        for process in processes:
            process.start()
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            await archive.ListRuns(archive_pb2.ListRunsRequest(), timeout=60, wait_for_ready=True)
        researcher = await stack.enter_async_context(
            wired("researcher", ResearcherSettings(**shared), instant_researcher)
        )
        settings = ServiceSettings(**shared, listen=ports["checker"])
        engineer = await stack.enter_async_context(wired("engineer", settings, _engineer))
        cognition = await stack.enter_async_context(channel(ports["cognition"], settings))
        async with asyncio.TaskGroup() as group:  # a failed service ends the measurement
            for worker in (researcher, engineer):
                group.create_task(worker.run(stop))
            request = cognition_pb2.SearchRequest(query="ready")
            await cognition_pb2_grpc.CognitionStub(cognition).Search(request, timeout=60, wait_for_ready=True)
            pids = {process.name: process.process.pid for process in processes if process.process}
            pids |= {"broker": broker.pid or 0, "bench": os.getpid()}
            yield System(engineer.bus, archive, pids)
            stop.set()
    broker.stop()


@asynccontextmanager
async def _engineer(service: Service, settings: ServiceSettings) -> AsyncIterator[None]:  # noqa: ARG001
    checker_pb2_grpc.add_CheckerServicer_to_server(InstantChecker(), service.server.grpc)
    await service.work(engineer_durable("tiny"), train, 8)
    yield


@asynccontextmanager
async def instant_researcher(
    service: Service, settings: ResearcherSettings, proposer: InstantProposer | None = None
) -> AsyncIterator[None]:
    """The researcher with a scripted proposer and embedder."""

    async def no_vector(query: str, mind: str, job: Job) -> None:
        """No endpoint embeds."""

    async def choose(mind: str, job: Job) -> InstantProposer:  # noqa: ARG001
        return proposer or InstantProposer()

    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(channel(address, settings))
            for address in (settings.archive_address, settings.checker_address, settings.cognition_address)
        ]
        researcher = Researcher(
            archive_pb2_grpc.ArchiveStub(channels[0]),
            checker_pb2_grpc.CheckerStub(channels[1]),
            cognition_pb2_grpc.CognitionStub(channels[2]),
            MotivationEmbedder(LocalEmbedder(256)),
            no_vector,
            choose,
        )
        await service.work("researcher", researcher.handle, 8)
        yield


async def measure(candidates: int, seats: int, marks: Sequence[int] = ()) -> Cost:
    """A complete run; prints each part up to a mark."""
    to_come = sorted(mark for mark in marks if mark < candidates)
    with tempfile.TemporaryDirectory() as folder:
        async with running_system(Path(folder)) as system:
            event = first("bench", "started", "console")
            event.run_started.settings.CopyFrom(
                events_pb2.RunSettings(
                    scale="tiny",
                    mind="offline",
                    seats=seats,
                    baselines=["delta_net"],
                    fitness="paper",
                    budget=events_pb2.Budget(candidates=candidates),
                    pool=events_pb2.PoolSettings(size=50, parents=10, references=4, cold_start=5, batch=50),
                )
            )
            start = last = _Moment.of(system, 0)
            await system.bus.publish(event)
            ended = -1  # the baseline
            async with aclosing(system.bus.follow("asi.v1.bench.candidate.archived")) as archived:
                async for message in archived:  # None while nothing arrives
                    ended += message is not None
                    if ended >= candidates:
                        break
                    if to_come and ended >= to_come[0]:
                        to_come.pop(0)
                        here = _Moment.of(system, ended)
                        print(f"up to {here.ended}:", here.since(last, seats, system), flush=True)
                        last = here
            end = _Moment.of(system, candidates)
            async for status in system.archive.WatchRun(archive_pb2.RunRequest(run="bench")):
                if status.phase == "finished":
                    break
            assert status.states.get("archived") == candidates + 1, dict(status.states)
            if marks:
                print(f"up to {candidates}:", end.since(last, seats, system), flush=True)
            return end.since(start, seats, system)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--seats", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--marks", type=int, nargs="+", default=[])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logs.configure_for_people("error")
    costs = []
    for count in arguments.candidates:
        for seats in arguments.seats:
            costs.append(run_on_uvloop(measure(count, seats, arguments.marks)))
            if not arguments.json:
                print(costs[-1], flush=True)
    if arguments.json:
        print(json.dumps([asdict(cost) for cost in costs]))


if __name__ == "__main__":
    main()
