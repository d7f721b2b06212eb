"""One model at one endpoint: sends requests, books their cost and records every call."""

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Generic
from urllib.parse import urlsplit

from services.llm.answers import JSON, Unreadable, read
from services.llm.budget import BudgetLedger, Price, Reservation, Spend, spend
from services.llm.exchange import EndpointClient, Outcome, RequestFormat, Scrubber, body, connect
from services.llm.port import A, Call, Fault, Journal, Message, MindUnavailable, Request
from services.llm.settings import MindSettings, Model, RoleSettings

DOWN = frozenset({Fault.SERVER_ERROR, Fault.TIMEOUT, Fault.DISCONNECTED, Fault.MALFORMED, Fault.UNAUTHORISED})
_TEMPLATE_TOKENS = 128  # an upper bound of what a chat template adds to the messages


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """An exchange that a candidate pays for; `call` is its record without the outcome."""

    run: str
    candidate: str
    price: Price | None
    call: Call

    def recorded(self, outcome: Outcome, seconds: float, worst: Spend) -> Call:
        """The whole record; with the reservation `worst` if the usage is unknown."""
        tokens = (outcome.prompt_tokens, outcome.completion_tokens) if outcome.billed else (0, 0)
        unknown = None in tokens
        return replace(
            self.call,
            answer=outcome.text.encode("utf-8", "replace"),
            error=outcome.fault,
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
            seconds=seconds,
            price=None if unknown else spend(self.price, tokens[0] or 0, tokens[1] or 0).dollars,
            reserved_tokens=worst.tokens if unknown else None,
            reserved_price=worst.dollars if unknown else None,
        )


@dataclass(frozen=True, slots=True)
class BilledCandidate:
    """The candidate for which a text is embedded: its run pays, and its record contains the call."""

    run: str
    candidate: str
    ledger: BudgetLedger
    journal: Journal


@dataclass(slots=True)
class PendingCall:
    """An exchange in progress; the caller sets its outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CallAccounting:
    """Books each call on the ledger and, if there is a journal, records it there."""

    ledger: BudgetLedger
    journal: Journal | None

    @asynccontextmanager
    async def account(self, planned: PlannedCall, worst: Spend, calls: list[Call]) -> AsyncIterator[PendingCall]:
        """Reserve `worst` for the exchange in the context; then append it to `calls`, record it and book its cost.

        Raises the errors of the ledger, before sending, and of the journal. A call that could not be recorded stays
        reserved.
        """
        reservation = await self.ledger.reserve(planned.run, worst)
        pending = PendingCall(Outcome(Fault.CANCELLED, message="the caller was cancelled"))
        started = time.monotonic()
        try:
            yield pending
        finally:
            call = planned.recorded(pending.outcome, time.monotonic() - started, worst)
            calls.append(call)
            await _shielded(self._close(reservation, pending.outcome.spent(planned.price), planned, call))

    async def _close(self, reservation: Reservation, spent: Spend | None, planned: PlannedCall, call: Call) -> None:
        booked_at = None
        try:
            if self.journal is not None:
                booked_at = await self.journal.record(planned.run, planned.candidate, call)
        finally:
            await self.ledger.settle(reservation, spent, booked_at)


async def _shielded(work: Coroutine[None, None, None]) -> None:
    """Finish `work` even if the caller is cancelled, since costs must be recorded."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


@dataclass(frozen=True, slots=True)
class Attempt(Generic[A]):
    """One exchange: its outcome, and the validated answer if there is one."""

    outcome: Outcome
    call: Call
    answer: A | None


class Circuit:
    """A circuit breaker: closed, open or half-open. Times are seconds of one monotonic clock.

    Opens after `failures` in a row, for `seconds`, doubled at each failed trial up to `longest`.
    """

    def __init__(self, failures: int, seconds: float, longest: float = 300.0) -> None:
        self._failures, self._seconds, self._longest = failures, seconds, longest
        self._in_row = 0
        self._pause = seconds
        self._until: float | None = None  # None: closed
        self._trying = False

    def wait(self, now: float) -> float:
        """Seconds until a call may be made; 0 for now."""
        if self._until is None:
            return 0.0
        if self._trying:
            return max(self._until - now, self._pause)
        return max(self._until - now, 0.0)

    def enter(self) -> None:
        """A call begins; if the circuit is open, it is the trial call."""
        self._trying = self._until is not None

    def succeeded(self) -> None:
        self._in_row, self._pause, self._until, self._trying = 0, self._seconds, None, False

    def failed(self, now: float) -> None:
        self._in_row += 1
        if self._trying:
            self._pause = min(2.0 * self._pause, self._longest)
        if self._trying or self._in_row >= self._failures:
            self._until, self._trying = now + self._pause, False

    def abandoned(self) -> None:
        """A call ended without information about the endpoint, as when it was cancelled."""
        self._trying = False


@dataclass(eq=False, slots=True)
class ModelClient:
    """A model and what is known of its endpoint: the supported request format, and whether it is down."""

    model: Model
    client: EndpointClient
    slots: asyncio.Semaphore
    format: RequestFormat
    bytes_per_token: float
    circuit: Circuit
    accounting: CallAccounting
    last_failure: str = ""
    answered: bool = False  # whether any request was accepted

    def body(self, request: Request[A], turns: tuple[Message, ...], settings: RoleSettings) -> dict[str, JSON]:
        temperature = settings.temperature if request.temperature is None else request.temperature
        return body(self.model.name, request, turns, self.format, temperature, settings.max_tokens)

    async def ask(
        self, request: Request[A], turns: tuple[Message, ...], settings: RoleSettings, calls: list[Call]
    ) -> Attempt[A]:
        """One exchange, repeated in a simpler format while the endpoint does not support the current one.

        Appends every call to `calls`. Raises BudgetExhausted before sending, MindUnavailable while the circuit is open,
        and the errors of the journal.
        """
        while True:
            format_, content = self.format, self.body(request, turns, settings)
            limit = min(settings.max_tokens, format_.most_tokens)
            attempt = await self._exchange(request, content, limit, format_, calls)
            if attempt.outcome.fault is not Fault.UNSUPPORTED:
                return attempt
            if self.format == format_ and (weaker := format_.after(attempt.outcome.message, limit)):
                self.format = weaker

    async def _exchange(
        self, request: Request[A], content: Mapping[str, JSON], max_tokens: int, format_: RequestFormat,
        calls: list[Call],
    ) -> Attempt[A]:  # fmt: skip
        model = self.model
        prompt = json.dumps(content, ensure_ascii=False)
        call = Call(
            request.role, model.name, model.endpoint, prompt.encode("utf-8", "replace"), request.prompt_version,
            request.prompt_hash,
        )  # fmt: skip
        planned = PlannedCall(request.run, request.candidate, model.price, call)
        # No tokenizer makes more tokens than bytes.
        tokens = math.ceil(len(prompt.encode("utf-8", "surrogatepass")) / self.bytes_per_token)
        worst = spend(model.price, tokens + _TEMPLATE_TOKENS, max_tokens)
        answer = None
        async with self.slots:
            wait = self.circuit.wait(time.monotonic())
            if wait > 0.0:
                rest = f"{model.name} is not called for {wait:.0f} s after repeated failures"
                raise MindUnavailable(f"{rest}, the last: {self.last_failure}", delay=wait)
            async with self.accounting.account(planned, worst, calls) as pending:
                self.circuit.enter()
                try:
                    pending.outcome, answer = _validated(
                        await self.client.exchange(content), request, format_, max_tokens
                    )
                finally:
                    self._update_circuit(pending.outcome)
        return Attempt(pending.outcome, calls[-1], answer)

    def _update_circuit(self, outcome: Outcome) -> None:
        if outcome.fault in DOWN:
            self.circuit.failed(time.monotonic())
            self.last_failure = f"{outcome.fault}: {outcome.message[:200]}"
        elif outcome.fault in (Fault.CANCELLED, Fault.RATE_LIMITED):
            self.circuit.abandoned()
        else:
            self.circuit.succeeded()
            self.answered = self.answered or outcome.fault not in (Fault.BAD_REQUEST, Fault.UNSUPPORTED)


def _validated(
    outcome: Outcome, request: Request[A], format_: RequestFormat, max_tokens: int
) -> tuple[Outcome, A | None]:
    """The validated answer, if any. An invalid text or a 400 about an optional feature gets its own fault."""
    if outcome.fault is Fault.BAD_REQUEST and format_.after(outcome.message, max_tokens) is not None:
        return replace(outcome, fault=Fault.UNSUPPORTED), None
    if outcome.fault is not None:
        return outcome, None
    try:
        return outcome, read(outcome.text, request.answer)
    except Unreadable as unreadable:
        return replace(outcome, fault=Fault.INVALID, message=str(unreadable)), None


_LOGGERS = ("openai", "openai._base_client", "httpx", "httpx2", "httpcore", "httpcore2")


def guard_logs(settings: MindSettings) -> Scrubber:
    """Remove all keys, and passwords in addresses, from the logs of the client libraries; the scrubber that does it."""
    keys = [key.get_secret_value() for key in settings.keys.values()]
    scrubber = Scrubber([*keys, *(urlsplit(address).password or "" for address in settings.addresses.values())])
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(scrubber.filter)
    return scrubber


def release_logs(scrubber: Scrubber) -> None:
    """Undo `guard_logs`."""
    for name in _LOGGERS:
        logging.getLogger(name).removeFilter(scrubber.filter)


def model_clients(settings: MindSettings, accounting: CallAccounting, scrubber: Scrubber) -> dict[str, ModelClient]:
    """Every model of the settings by its key; models of one endpoint share its connections and slots."""
    clients: dict[str, EndpointClient] = {}
    for name, endpoint in settings.endpoints.items():
        client = connect(settings.addresses[name], settings.keys[name])
        clients[name] = EndpointClient(client, endpoint.timeout_seconds, scrubber)
    slots = {name: asyncio.Semaphore(endpoint.concurrency) for name, endpoint in settings.endpoints.items()}
    models: dict[str, ModelClient] = {}
    for key, model in settings.models.items():
        endpoint = settings.endpoints[model.endpoint]
        models[key] = ModelClient(
            model,
            clients[model.endpoint],
            slots[model.endpoint],
            RequestFormat() if endpoint.structured == "auto" else RequestFormat(endpoint.structured, adaptable=False),
            endpoint.bytes_per_token,
            Circuit(settings.retry.circuit_failures, settings.retry.circuit_seconds),
            accounting,
        )
    return models
