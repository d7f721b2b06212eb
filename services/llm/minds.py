"""Opens the minds that runs select.

    minds = Minds(service.name, service.bus, archive_stub, settings.artifacts)
    mind = await minds.mind(run_settings.mind, job)     # None for the offline mind
    answered = await mind.ask(request)                  # every call becomes a fact mind.answered of the candidate

All candidates of a service share one OpenAIMind, so that limits per endpoint apply; the store keeps the budgets.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
import uuid
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import grpc
import grpc.aio
from prometheus_client import Counter

from services.archive import all_candidates
from services.archive.artifacts import FsspecArtifacts, require_artifacts
from services.chassis.bus import Bus
from services.chassis.errors import Transient
from services.chassis.events import Cause, follow
from services.chassis.logs import get_logger
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.domain.fitness import STANDARDISED_GAIN
from services.llm.budget import Reservation, Spend
from services.llm.model_client import BilledCandidate
from services.llm.openai_mind import OpenAIMind
from services.llm.port import (
    MIXED,
    OFFLINE,
    OPENAI,
    RECORDED,
    BudgetExhausted,
    Call,
    Learner,
    Mind,
    Role,
    exchange_file,
    record_of,
)
from services.llm.recorded import CallRecord, ExchangeFileMind, LoggedCalls, RecordedMind, rewarded_model, to_message
from services.llm.settings import embedder_settings, load_mind

TOKENS = Counter("asi_mind_tokens_total", "Language-model tokens", ["role", "model", "kind"])
MONEY = Counter("asi_mind_dollars_total", "Language-model cost in US dollars", ["role", "model"])
BUSY_SECONDS = 0.5
MAX_CAUSES = 256
"""Candidates whose causes are remembered; many more than a process handles at once."""


def require_minds(settings: ServiceSettings) -> None:
    """Raises SettingsError for a file of models, an embedder or a place of artifacts that could not be used later."""
    require_artifacts(settings)
    if os.environ.get("ASI_MIND_FILE"):
        load_mind(os.environ)
    embedder_settings(os.environ)


class Minds:
    """Opens minds on demand. Close it when the service ends."""

    def __init__(self, service: str, bus: Bus, archive: archive_pb2_grpc.ArchiveAsyncStub, artifacts: str) -> None:
        self._archive = archive
        self._artifacts = FsspecArtifacts(artifacts)
        self._journal = EventJournal(service, bus, self._artifacts)
        self._lessons = RewardFeed(archive)
        self._openai: OpenAIMind | None = None
        self._exchanges: dict[Path, ExchangeFileMind] = {}
        self._recorded: dict[tuple[str, str], RecordedMind] = {}  # by run and name of the mind

    async def mind(self, name: str, job: Job) -> Mind | None:
        """The mind of this name; None for "offline". Raises SettingsError without an endpoint, else ValueError."""
        self._journal.follow(job)
        if name in ("", OFFLINE):
            return None
        if name in (OPENAI, MIXED):
            return await self._open_openai(job)
        if (path := exchange_file(name)) is not None:
            if path not in self._exchanges:
                self._exchanges[path] = ExchangeFileMind.read(path)
            return self._exchanges[path]
        key = job.event.run, name
        if key not in self._recorded:
            self._recorded[key] = await self._open_recorded(*record_of(name), job)
        return self._recorded[key]

    async def record(self, name: str, job: Job) -> RecordedMind | None:
        """The mind of this name, if it answers from a record."""
        mind = await self.mind(name, job) if name.startswith(RECORDED) else None
        return mind if isinstance(mind, RecordedMind) else None

    def billed(self, job: Job) -> BilledCandidate:
        """The candidate that pays for embeddings of this job."""
        self._journal.follow(job)
        return BilledCandidate(job.event.run, job.event.candidate, ArchiveLedger(self._archive), self._journal)

    async def close(self) -> None:
        if self._openai is not None:
            await self._openai.close()

    async def _open_openai(self, job: Job) -> OpenAIMind:
        if self._openai is None:
            self._openai = OpenAIMind.from_environment(os.environ, ArchiveLedger(self._archive), self._journal)
        if self._openai.learns:
            await self._lessons.teach(self._openai, job.event.run)
        return self._openai

    async def _open_recorded(self, run: str, until: int | None, job: Job) -> RecordedMind:
        if until is not None:
            calls = LoggedCalls(self._archive, self._artifacts, run, until)
            return RecordedMind(calls, f"{run}@{until}", await self._open_openai(job))
        record = CallRecord(self._artifacts)
        for candidate in await all_candidates(self._archive, archive_pb2.ListCandidatesRequest(run=run)):
            for call in candidate.calls:
                record.add(candidate.id, call)
        return RecordedMind(record, run)


class EventJournal:
    """Publishes every call as mind.answered, caused by the event that is handled."""

    def __init__(self, service: str, bus: Bus, artifacts: FsspecArtifacts) -> None:
        self._service = service
        self._bus = bus
        self._artifacts = artifacts
        self._causes: dict[tuple[str, str], tuple[Cause, int]] = {}  # oldest first
        self._process = uuid.uuid4().hex[:8]
        self._calls = count(1)

    def follow(self, job: Job) -> None:
        """Set the job's event as the cause of its candidate's calls."""
        key = job.event.run, job.event.candidate
        self._causes.pop(key, None)
        self._causes[key] = job.cause, job.attempt
        if len(self._causes) > MAX_CAUSES:
            del self._causes[next(iter(self._causes))]

    async def record(self, run: str, candidate: str, call: Call) -> int:
        """Store prompt and answer as artifacts and publish the call; returns its sequence. Raises Transient."""
        cause, attempt = self._causes[run, candidate]
        # Unique, since every call is paid for; the broker may restart its count of deliveries.
        suffix = f"{call.role}-{call.prompt_hash[:12]}-{self._process}-{next(self._calls)}"
        event = follow(cause, "answered", self._service, attempt, candidate, suffix)
        event.mind_answered.call.CopyFrom(await to_message(call, self._artifacts))
        sequence = await self._bus.publish(event)
        TOKENS.labels(call.role, call.model, "prompt").inc(call.prompt_tokens or 0)
        TOKENS.labels(call.role, call.model, "completion").inc(call.completion_tokens or 0)
        MONEY.labels(call.role, call.model).inc(call.price or 0.0)
        return sequence


class ArchiveLedger:
    """The run's budget ledger in the store, shared by all services."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive

    async def reserve(self, run: str, worst: Spend) -> Reservation:
        """Waits while reservations of calls in flight exceed the budget. Raises BudgetExhausted or Transient."""
        request = archive_pb2.ReserveRequest(run=run, tokens=worst.tokens, nanodollars=worst.nanodollars)
        while True:
            try:
                reply = await self._archive.Reserve(request, timeout=30)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    raise BudgetExhausted(error.details() or "the budget is used up") from None
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise Transient(f"the budget ledger in the store is unavailable: {error.details()}") from error
                await asyncio.sleep(BUSY_SECONDS)
            else:
                return Reservation(run, reply.reservation, worst)

    async def settle(self, reservation: Reservation, actual: Spend | None, booked_at: int | None = None) -> None:
        """Report the call's cost; without a report the store keeps the whole reservation."""
        request = archive_pb2.SettleRequest(
            run=reservation.run,
            reservation=reservation.id,
            tokens=None if actual is None else actual.tokens,
            nanodollars=None if actual is None else actual.nanodollars,
            booked_at=booked_at or 0,
        )
        try:
            await self._archive.Settle(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            raise Transient(f"the budget ledger in the store is unavailable: {error.details()}") from error


FRESH_SECONDS = 60.0


class RewardFeed:
    """Rewards models by a run's scored candidates, at most once a minute."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive
        self._updated: dict[str, float] = {}

    async def teach(self, mind: Learner, run: str) -> None:
        """Reward the model behind each proposal with the fitness gained over its parent, at least 0.

        On errors of the archive the bandit is unchanged.
        """
        if time.monotonic() - self._updated.get(run, -FRESH_SECONDS) < FRESH_SECONDS:
            return
        self._updated[run] = time.monotonic()
        try:
            request = archive_pb2.ListCandidatesRequest(run=run, states=[pb.STATE_ARCHIVED])
            records = {record.id: record for record in await all_candidates(self._archive, request)}
        except grpc.aio.AioRpcError as error:
            get_logger().warning("cannot update the choice of models: no reply of the archive", reason=error.details())
            return
        for record in records.values():
            model, gain = rewarded_model(record.calls, Role.PROPOSE), gain_of(record, records)
            if model is not None and gain is not None:
                await mind.reward(Role.PROPOSE, model, f"{run}/{record.id}", gain)


def gain_of(record: pb.Candidate, records: Mapping[str, pb.Candidate]) -> float | None:
    """The reward of a candidate, 0 to 1; None if it or its parent has no fitness.

    For standardised gains, which are in units of noise, the confidence that the candidate is better; for other versions
    of the fitness the difference, at least 0.
    """
    parent = records.get(record.proposal.parent)
    if parent is None or not (record.verdict.HasField("fitness") and parent.verdict.HasField("fitness")):
        return None
    gain = max(0.0, record.verdict.fitness.value - parent.verdict.fitness.value)
    return math.erf(gain / math.sqrt(2)) if record.verdict.fitness.version == STANDARDISED_GAIN else min(1.0, gain)
