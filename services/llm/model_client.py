"""One model at one endpoint: sends one request, books its cost and records the call, whatever comes of it."""

import asyncio
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic
from urllib.parse import urlsplit

from services.llm.answers import JSON, RequestFormat, Unreadable, body, read
from services.llm.budget import Spend, spend
from services.llm.exchange import CallAccounting, EndpointClient, Outcome, PlannedCall, Scrubber, connect
from services.llm.port import A, Call, Fault, Message, MindUnavailable, Request
from services.llm.retry import Circuit
from services.llm.settings import Endpoint, MindSettings, Model, RoleSettings

DOWN = frozenset({Fault.SERVER_ERROR, Fault.TIMEOUT, Fault.DISCONNECTED, Fault.MALFORMED, Fault.UNAUTHORISED})
_TOKENS_AROUND = 128  # what a chat template wraps around the messages, generously


@dataclass(frozen=True, slots=True)
class Attempt(Generic[A]):
    """One exchange seen from the conversation: the validated answer, or why there is none."""

    outcome: Outcome
    call: Call
    answer: A | None


class ModelClient:
    """A model that can be asked; remembers what its endpoint understands and whether it is down."""

    def __init__(
        self,
        model: Model,
        client: EndpointClient,
        slots: asyncio.Semaphore,
        format_: RequestFormat,
        bytes_per_token: float,
        circuit: Circuit,
        accounting: CallAccounting,
    ) -> None:
        self.model = model
        self.circuit = circuit
        self._client = client
        self._slots = slots
        self._format = format_
        self._bytes_per_token = bytes_per_token
        self._accounting = accounting
        self._last_failure = ""

    def body(self, request: Request[A], turns: tuple[Message, ...], settings: RoleSettings) -> dict[str, JSON]:
        """What would be sent now."""
        temperature = settings.temperature if request.temperature is None else request.temperature
        return body(self.model.name, request, turns, self._format, temperature, settings.max_tokens)

    async def ask(
        self, request: Request[A], turns: tuple[Message, ...], settings: RoleSettings, calls: list[Call]
    ) -> Attempt[A]:
        """One exchange, again for as long as the endpoint complains about optional features only.

        Appends every call to `calls`. Raises BudgetExhausted before anything is sent, MindUnavailable when the circuit
        is open, and what the journal raises.
        """
        while True:
            format_, asked = self._format, self.body(request, turns, settings)
            attempt = await self._once(request, asked, settings.max_tokens, format_, calls)
            if attempt.outcome.fault is not Fault.UNSUPPORTED:
                return attempt
            if self._format == format_ and (weaker := format_.after(attempt.outcome.message)):
                self._format = weaker

    async def close(self) -> None:
        """Close the connections of its endpoint; doing so twice is harmless."""
        await self._client.close()

    async def _once(
        self, request: Request[A], asked: Mapping[str, JSON], max_tokens: int, format_: RequestFormat, calls: list[Call]
    ) -> Attempt[A]:
        planned = self._planned(request, json.dumps(asked, ensure_ascii=False))
        answer = None
        async with self._slots:
            self._refuse_if_open()
            async with self._accounting.account(planned, self._worst(planned.prompt, max_tokens), calls) as pending:
                self.circuit.enter()
                try:
                    pending.outcome, answer = _understood(await self._client.exchange(asked), request, format_)
                finally:
                    self._learn(pending.outcome)
        return Attempt(pending.outcome, calls[-1], answer)

    def _refuse_if_open(self) -> None:
        wait = self.circuit.wait(self._accounting.clock.monotonic())
        if wait > 0.0:
            raise MindUnavailable(
                f"{self.model.name} is left alone for {wait:.0f} s after failures in a row, the last: "
                f"{self._last_failure}",
                delay=wait,
            )

    def _worst(self, prompt: str, max_tokens: int) -> Spend:
        """The most that this call can take: no tokenizer makes more tokens than bytes."""
        size = len(prompt.encode("utf-8", "surrogatepass")) / self._bytes_per_token
        return spend(self.model.price, math.ceil(size) + _TOKENS_AROUND, max_tokens)

    def _learn(self, outcome: Outcome) -> None:
        if outcome.fault in DOWN:
            self.circuit.failed(self._accounting.clock.monotonic())
            self._last_failure = f"{outcome.fault}: {outcome.message[:200]}"
        elif outcome.fault in (Fault.CANCELLED, Fault.RATE_LIMITED):
            self.circuit.abandoned()
        else:
            self.circuit.succeeded()

    def _planned(self, request: Request[A], prompt: str) -> PlannedCall:
        return PlannedCall(
            run=request.run,
            candidate=request.candidate,
            role=request.role,
            model=self.model.name,
            endpoint=self.model.endpoint,
            price=self.model.price,
            prompt=prompt,
            prompt_version=request.prompt_version,
            prompt_hash=request.prompt_hash,
        )


def _understood(outcome: Outcome, request: Request[A], format_: RequestFormat) -> tuple[Outcome, A | None]:
    """The validated answer, if any; turns an invalid text or a 400 about an optional feature into its own fault."""
    if outcome.fault is Fault.BAD_REQUEST and format_.after(outcome.message) is not None:
        return replace(outcome, fault=Fault.UNSUPPORTED), None
    if outcome.fault is not None:
        return outcome, None
    try:
        return outcome, read(outcome.text, request.answer)
    except Unreadable as unreadable:
        return replace(outcome, fault=Fault.INVALID, message=str(unreadable)), None


_LOGGERS = ("openai", "openai._base_client", "httpx", "httpx2", "httpcore", "httpcore2")


def make_scrubber(settings: MindSettings) -> Scrubber:
    """A scrubber that knows every key, and every password in an address."""
    keys = [key.get_secret_value() for key in settings.keys.values()]
    passwords = [urlsplit(address).password or "" for address in settings.addresses.values()]
    return Scrubber([*keys, *passwords])


def guard_logs(scrubber: Scrubber) -> None:
    """Keep secrets out of what the client libraries log."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(scrubber.filter)


def release_logs(scrubber: Scrubber) -> None:
    """Undo `guard_logs`, once the mind is closed."""
    for name in _LOGGERS:
        logging.getLogger(name).removeFilter(scrubber.filter)


def model_clients(settings: MindSettings, accounting: CallAccounting, scrubber: Scrubber) -> dict[str, ModelClient]:
    """Every model of the settings by its key; models of one endpoint share its connections and slots."""
    clients = {name: _client(settings, name, accounting, scrubber) for name in settings.endpoints}
    slots = {name: asyncio.Semaphore(endpoint.concurrency) for name, endpoint in settings.endpoints.items()}
    return {
        key: ModelClient(
            model,
            clients[model.endpoint],
            slots[model.endpoint],
            _format(settings.endpoints[model.endpoint]),
            settings.endpoints[model.endpoint].bytes_per_token,
            Circuit(settings.retry.circuit),
            accounting,
        )
        for key, model in settings.models.items()
    }


def _client(settings: MindSettings, name: str, accounting: CallAccounting, scrubber: Scrubber) -> EndpointClient:
    client = connect(settings.addresses[name], settings.keys[name])
    return EndpointClient(client, settings.endpoints[name].timeout_seconds, scrubber, accounting.clock.now)


def _format(endpoint: Endpoint) -> RequestFormat:
    if endpoint.structured == "auto":
        return RequestFormat()
    return RequestFormat(endpoint.structured, adaptable=False)
