"""The mind behind any OpenAI-compatible endpoint.

A question goes to the models of its role in turn until one answers. Each model gets several attempts with back-off; a
circuit breaker skips a model that fails repeatedly. An invalid or truncated answer is returned to the model once, with
the reason. The question as a whole has a time limit; every exchange is booked, recorded and part of the result.

If a role has several models, a `Bandit` may order them by fitness gained per unit of cost.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel

from services.chassis.worker import waiting_for
from services.llm.budget import BudgetLedger
from services.llm.model_client import DOWN, Attempt, CallAccounting, guard_logs, model_clients, release_logs
from services.llm.port import (
    A,
    Answered,
    AnswerInvalid,
    AnswerTruncated,
    Call,
    Fault,
    Journal,
    Message,
    MindError,
    MindRefused,
    MindUnavailable,
    Request,
    Role,
)
from services.llm.settings import MindSettings, RoleSettings, load_mind

_CHEAPEST_SHARE = 0.01  # the cost of a free model, relative to the most expensive one


@dataclass(slots=True)
class Arm:
    """The statistics of a model in a role: `cost` is the sum over `asked`, `gain` over `rewarded`."""

    asked: int = 0
    rewarded: int = 0
    gain: float = 0.0
    cost: float = 0.0


class Bandit:
    """An upper-confidence-bound bandit over models."""

    def __init__(self, models: Sequence[str]) -> None:
        self.arms = {model: Arm() for model in models}

    def order(self) -> list[str]:
        """Models never asked, in order, then by descending bound; ties keep the order."""
        return sorted(self.arms, key=lambda model: -self._bound(self.arms[model]))

    def asked(self, model: str, cost: float = 0.0, times: int = 1) -> None:
        """Count a question to `model`, or with times=0 add the cost of one that was counted."""
        self.arms[model].asked += times
        self.arms[model].cost += cost

    def rewarded(self, model: str, gain: float) -> None:
        """Add the gain of an answer, clipped to 0 to 1. Raises ValueError if it is not finite."""
        if not math.isfinite(gain):
            raise ValueError(f"the gain of {model} must be a finite number, not {gain!r}")
        self.arms[model].rewarded += 1
        self.arms[model].gain += min(max(gain, 0.0), 1.0)

    def _bound(self, arm: Arm) -> float:
        """The bound of the mean gain, divided by the mean cost relative to that of the most expensive model."""
        if not arm.asked:
            return math.inf
        asked = [other for other in self.arms.values() if other.asked]
        total, highest = sum(other.asked for other in asked), max(other.cost / other.asked for other in asked)
        cost = max(arm.cost / arm.asked / highest, _CHEAPEST_SHARE) if highest > 0.0 else 1.0
        mean = arm.gain / arm.rewarded if arm.rewarded else 0.0
        return (mean + math.sqrt(2.0 * math.log(total) / arm.asked)) / cost


_AGAIN = (DOWN - {Fault.UNAUTHORISED}) | {Fault.RATE_LIMITED, Fault.EMPTY}
_SETTINGS_WRONG_SECONDS = 60.0
_LONGEST_REASON = 120  # characters of a failure in the progress display
_LONGEST_REPEATED = 100_000  # characters of an answer that is sent back for correction, each of which is charged


@dataclass(frozen=True, slots=True)
class _Question:
    """The state of one `ask`."""

    settings: RoleSettings
    calls: list[Call]
    ends: float  # on the monotonic clock


class OpenAIMind:
    """Answers through endpoints; safe for concurrent use. Close it when done."""

    def __init__(
        self,
        settings: MindSettings,
        ledger: BudgetLedger,
        journal: Journal | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._rng = rng or random.Random()
        self._scrubber = guard_logs(settings)
        self._models = model_clients(settings, CallAccounting(ledger, journal), self._scrubber)
        self._bandits = {role: Bandit(chosen.models) for role, chosen in settings.roles.items()}
        self._rewarded: set[tuple[Role, str]] = set()

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], ledger: BudgetLedger, journal: Journal | None = None
    ) -> "OpenAIMind":
        """The mind of ASI_MIND_FILE, or of OPENAI_BASE_URL, OPENAI_API_KEY and ASI_MODEL. Raises SettingsError."""
        return cls(load_mind(environment), ledger, journal)

    @property
    def name(self) -> str:
        models = dict.fromkeys(self._settings.models[key].name for key in self._settings.roles[Role.PROPOSE].models)
        return f"openai:{','.join(models)}"

    @property
    def learns(self) -> bool:
        """Whether a bandit chooses the model of some role."""
        return any(role.choice == "bandit" for role in self._settings.roles.values())

    async def __aenter__(self) -> "OpenAIMind":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for model in self._models.values():
            await model.client.close()
        release_logs(self._scrubber)

    async def ask(self, request: Request[A]) -> Answered[A]:
        settings = self._settings.roles[request.role]
        question = _Question(settings, [], time.monotonic() + settings.total_seconds)
        try:
            async with asyncio.timeout(settings.total_seconds):
                answer = await self._first_that_answers(self._clean(request), question)
        except (MindError, TimeoutError) as failure:
            late = f"no answer for {request.role} within {settings.total_seconds:g} s"
            error = failure if isinstance(failure, MindError) else MindUnavailable(late)
            faults = {call.error for call in question.calls} - {Fault.CANCELLED}
            if isinstance(error, MindUnavailable) and faults == {Fault.EMPTY}:  # each is charged, so they are bounded
                error = AnswerInvalid(request.role, f"no answer had any text: {error}")
            error.calls = tuple(question.calls)
            raise error from None
        return Answered(answer, tuple(question.calls))

    def preview(self, request: Request[BaseModel]) -> str:
        """The JSON body of the first request that `ask` would send."""
        key = self._order(request.role)[0]
        body = self._models[key].body(self._clean(request), (), self._settings.roles[request.role])
        return json.dumps(body, ensure_ascii=False, indent=2)

    async def reward(self, role: Role, model: str, candidate: str, gain: float) -> None:
        """See the Learner port; `model` is a name from a Call."""
        keys = [key for key in self._settings.roles[role].models if self._settings.models[key].name == model]
        if not keys or (role, candidate) in self._rewarded:
            return
        self._bandits[role].rewarded(keys[0], gain)
        self._rewarded.add((role, candidate))

    def _clean(self, request: Request[A]) -> Request[A]:
        """The request without secrets, which a log or a program may contain."""
        return replace(request, messages=tuple(Message(m.role, self._scrubber.text(m.text)) for m in request.messages))

    def _order(self, role: Role) -> list[str]:
        chosen = self._settings.roles[role]
        return self._bandits[role].order() if chosen.choice == "bandit" else list(chosen.models)

    async def _first_that_answers(self, request: Request[A], question: _Question) -> A:
        reasons: list[str] = []
        delays: list[float] = []
        for key in self._order(request.role):
            try:
                return await self._converse(key, request, question)
            except MindUnavailable as unavailable:
                reasons.append(str(unavailable))
                if unavailable.delay is not None:
                    delays.append(unavailable.delay)
        raise MindUnavailable("; ".join(reasons), delay=min(delays, default=None))

    async def _converse(self, key: str, request: Request[A], question: _Question) -> A:
        """The answer of one model, with one repair turn."""
        calls_before = len(question.calls)
        bandit = self._bandits[request.role]
        bandit.asked(key)
        try:
            first = await self._retry(key, request, (), question)
            if first.answer is not None:
                return first.answer
            second = await self._retry(key, request, _repair(first), question)
            if second.answer is not None:
                return second.answer
            if second.outcome.fault is Fault.TRUNCATED:
                reason = f"was cut off at the token limit twice; raise roles.{request.role}.max_tokens"
                raise AnswerTruncated(request.role, f"{second.call.model} {reason}")
            reason = f"the answer of {second.call.model} is not usable after a repair: {second.outcome.message}"
            raise AnswerInvalid(request.role, reason)
        finally:
            bandit.asked(key, self._cost(request.role, question.calls[calls_before:]), times=0)

    async def _retry(
        self, key: str, request: Request[A], turns: tuple[Message, ...], question: _Question
    ) -> Attempt[A]:
        """Retry until there is an answer, possibly invalid, and report the last failure as progress."""
        model, retry = self._models[key], self._settings.retry
        progress, repetition = "the model", 0
        while True:
            repetition += 1
            with waiting_for(progress, repetition):
                attempt = await model.ask(request, turns, question.settings, question.calls)
            fault = attempt.outcome.fault
            if fault in (None, Fault.INVALID, Fault.TRUNCATED, Fault.TOO_LONG):
                return attempt
            reason = f"{model.model.name}: {fault}: {attempt.outcome.message}"
            if fault is Fault.UNAUTHORISED:
                advice = "check the endpoint's address, the key and its credit, and the model's name"
                raise MindUnavailable(f"{reason}; {advice}", delay=_SETTINGS_WRONG_SECONDS)
            if fault is Fault.BAD_REQUEST and not model.answered:  # otherwise each candidate would be rejected
                advice = "it has refused every request so far: check the settings of the endpoint and the model"
                raise MindUnavailable(f"{reason}; {advice}", delay=_SETTINGS_WRONG_SECONDS)
            if fault not in _AGAIN:
                raise MindRefused(request.role, reason)
            if repetition == retry.attempts:
                raise MindUnavailable(reason, delay=attempt.outcome.retry_after)
            wait = retry.wait(repetition, self._rng, attempt.outcome.retry_after)
            if time.monotonic() + wait >= question.ends:
                raise MindUnavailable(reason, delay=wait)
            progress = f"the model ({fault}: {attempt.outcome.message[:_LONGEST_REASON]})"
            with waiting_for(progress, repetition):
                await asyncio.sleep(wait)

    def _cost(self, role: Role, calls: list[Call]) -> float:
        """The cost of calls: dollars if every model of the role has prices, else millions of tokens."""
        if all(self._settings.models[key].price for key in self._settings.roles[role].models):
            return sum(call.price or 0.0 for call in calls)
        return sum((call.prompt_tokens or 0) + (call.completion_tokens or 0) for call in calls) / 1e6


def _repair(attempt: Attempt[A]) -> tuple[Message, ...]:
    """The turns that request a correction. A long answer is not repeated, since it would fill the context."""
    if attempt.outcome.fault in (Fault.TRUNCATED, Fault.TOO_LONG):
        cut = attempt.outcome.fault is Fault.TRUNCATED
        reason = "was cut off at the length limit" if cut else f"cannot be used: {attempt.outcome.message}"
        return (Message("user", f"Your answer {reason}. Answer again, whole and in the same form, but shorter."),)
    text = (
        f"Your answer cannot be used: {attempt.outcome.message}.\n"
        "Give the complete corrected answer in the same form, and nothing else."
    )
    repeated = (Message("assistant", attempt.outcome.text),) if len(attempt.outcome.text) <= _LONGEST_REPEATED else ()
    return *repeated, Message("user", text)
