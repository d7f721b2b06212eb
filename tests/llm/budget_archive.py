"""The store's budget ledger over an in-memory archive, and a bus that records events."""

from services.chassis.bus import Bus
from services.chassis.events import Cause, first
from services.chassis.worker import Job
from services.contracts import archive_pb2 as arc
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.service import Context
from tests.archive_server import KnownArchive


class Archive(KnownArchive):
    """Knows one recorded candidate, and has a budget of tokens where one is given."""

    def __init__(self, tokens: int | None = None) -> None:
        self.record = pb.Candidate(id="c000002", run="r1")
        budget = events_pb2.Budget(tokens=tokens)
        settings = events_pb2.RunSettings(mind="offline", baselines=["delta_net"], budget=budget)
        super().__init__(self.record, settings=settings)

    def book(self, call: pb.Call) -> None:
        """A call of the candidate is on record from now on."""
        self.record.calls.add().CopyFrom(call)
        self.put(self.record)


class BrokenArchive(Archive):
    """Nothing works."""

    async def Reserve(self, request: arc.ReserveRequest, context: Context) -> arc.ReserveReply:  # noqa: N802, ARG002
        raise RuntimeError("the disk is full")

    async def ListCandidates(self, request: arc.ListCandidatesRequest, context: Context) -> arc.ListCandidatesReply:  # noqa: N802, ARG002
        raise RuntimeError("the disk is full")


def job_of(bus: Bus, attempt: int = 1) -> Job:
    event = first("r1", "requested", "store")
    event.candidate = "c000002"
    event.candidate_requested.SetInParent()
    return Job(Cause.published(event), attempt, 1, bus, "researcher")


class Recorder:
    """A bus in front of the real one that remembers what went through."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.events: list[events_pb2.Event] = []

    async def publish(self, event: events_pb2.Event) -> object:
        self.events.append(event)
        return await self.bus.publish(event)
