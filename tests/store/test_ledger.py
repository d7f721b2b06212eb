"""What a run may spend on models, kept by a real store: what is not known is booked as the whole reserve."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from services.archive.artifacts import FsspecArtifacts
from services.chassis.bus import Bus
from services.chassis.events import Cause
from services.chassis.worker import Job
from services.contracts import archive_pb2, events_pb2
from services.contracts import candidate_pb2 as pb
from services.llm.budget import Spend
from services.llm.exchange import Outcome
from services.llm.minds import ArchiveLedger, EventJournal
from services.llm.model_client import CallAccounting, PlannedCall
from services.llm.port import BudgetExhausted, Call, Fault
from tests.archive_server import Store, propose, start_run, store

PLANNED = PlannedCall("r1", "c000001", None, Call("propose", "m", "http://e", b"{}", "1", "0" * 64))
UNKNOWN = [Outcome(Fault.TIMEOUT), Outcome(None, "an answer without usage"), Outcome(Fault.DISCONNECTED)]


async def _accounting(bus: Bus, known: Store, folder: Path, tokens: int) -> CallAccounting:
    settings = events_pb2.RunSettings(
        seats=0, scale="tiny", baselines=["delta_net"], budget=events_pb2.Budget(tokens=tokens)
    )
    cause, sequence = await propose(bus, await start_run(bus, settings), pb.Candidate(id="c000001", stage="tiny"))
    journal = EventJournal("researcher", bus, FsspecArtifacts(folder.as_uri()))
    journal.follow(Job(Cause.of((await bus.message_at(sequence)).body), 1, sequence, bus, "researcher"))
    assert cause.event.candidate == "c000001"
    return CallAccounting(ArchiveLedger(known.stub), journal)


async def _status(bus: Bus, known: Store) -> archive_pb2.RunStatus:
    """The run once the store has applied what the log holds now."""
    last = await bus.last_sequence()
    async with asyncio.timeout(20):
        while True:
            if await known.archive.applied() >= last:
                return await known.stub.GetRun(archive_pb2.RunRequest(run="r1"))
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("outcome", UNKNOWN, ids=["timeout", "no usage", "disconnected"])
async def test_calls_of_unknown_usage_never_pass_the_budget(bus: Bus, tmp_path: Path, outcome: Outcome) -> None:
    """Five calls of 900 tokens once passed a budget of 1,000: each was booked as nothing."""
    waits = 0
    async with store(bus) as known:
        accounting = await _accounting(bus, known, tmp_path, 1000)
        for _ in range(5):
            try:
                async with accounting.account(PLANNED, Spend(900, None), []) as pending:
                    pending.outcome, waits = outcome, waits + 1
            except BudgetExhausted:
                continue
        status = await _status(bus, known)
        reservations = await known.archive.reservations()

    assert waits == 1
    assert status.spent.tokens == 900
    assert reservations == [] or sum(reservation.tokens for reservation in reservations) == 900


async def test_a_call_whose_usage_is_known_frees_the_rest(bus: Bus, tmp_path: Path) -> None:
    """Once the log has booked it, its reservation is gone."""
    async with store(bus) as known:
        accounting = await _accounting(bus, known, tmp_path, 1000)
        for _ in range(3):
            async with accounting.account(PLANNED, Spend(700, None), []) as pending:
                pending.outcome = Outcome(None, "an answer", prompt_tokens=40, completion_tokens=60)
        status = await _status(bus, known)

    assert status.spent.tokens == 300


@pytest.mark.parametrize(("tokens", "nanodollars"), [(2**63, None), (2**64 - 1, 0), (10, 2**63)])
async def test_impossible_reservations_are_refused(bus: Bus, tokens: int, nanodollars: int | None) -> None:
    """No database holds such a number."""
    async with store(bus) as known:
        await start_run(bus, events_pb2.RunSettings(seats=0, scale="tiny", baselines=["delta_net"]))
        await _status(bus, known)
        with pytest.raises(grpc.aio.AioRpcError, match="a call cannot cost") as refused:
            await known.stub.Reserve(archive_pb2.ReserveRequest(run="r1", tokens=tokens, nanodollars=nanodollars))
        reservations = await known.archive.reservations()
        pool = await known.stub.GetPool(archive_pb2.GetPoolRequest(run="r1", at_sequence=2**64 - 1))

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not reservations
    assert not pool.members
