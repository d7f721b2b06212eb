"""The openai mind against a scripted endpoint over real HTTP: every fault, one by one."""

import asyncio
import json
import logging
import socket
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.chassis.errors import Rejected, Transient
from services.chassis.worker import Activity
from services.contracts import progress_pb2 as pb
from services.llm.budget import Limits, MemoryLedger
from services.llm.exchange import LONGEST_ANSWER
from services.llm.openai_mind import OpenAIMind
from services.llm.port import (
    AnswerInvalid,
    AnswerTruncated,
    Fault,
    MindError,
    MindRefused,
    MindUnavailable,
    Role,
)
from services.llm.scripted import FaultName, ScriptedEndpoint, Step
from tests.llm.scripted_minds import GOOD, KEY, Idea, MemoryJournal, mind, question, script, served, settings


async def test_a_good_answer_comes_back_typed_with_its_call() -> None:
    """The plain case, with tokens, price and prompt on record."""
    journal = MemoryJournal()
    async with served(script(), journal=journal) as (_, model):
        answered = await model.ask(question())

    (call,) = answered.calls
    assert answered.answer == Idea.model_validate(GOOD)
    assert (call.model, call.endpoint, call.error) == ("model-e0", "e0", None)
    assert call.prompt_tokens is not None
    assert call.price == pytest.approx((call.prompt_tokens + (call.completion_tokens or 0)) / 1e6)
    assert b"What next?" in call.prompt
    assert journal.calls == [("r1", "c1", call)]


async def test_the_preview_is_what_is_sent() -> None:
    """A person can read the exact prompt before it costs anything."""
    async with served(script()) as (server, model):
        shown = model.preview(question())
        heard_before = len(server.received)
        await model.ask(question())

    assert heard_before == 0
    assert json.loads(shown) == server.received[0].json


@pytest.mark.parametrize(
    ("fate", "fault"),
    [
        ("rate_limit", Fault.RATE_LIMITED),
        ("server_error", Fault.SERVER_ERROR),
        ("malformed", Fault.MALFORMED),
        ("empty", Fault.EMPTY),
        ("disconnect", Fault.DISCONNECTED),
        ("truncated", Fault.TRUNCATED),
    ],
)
async def test_a_transient_fault_is_recorded_and_retried(fate: FaultName, fault: Fault) -> None:
    """The failed call is recorded as well as the successful one."""
    async with served(script(Step(fault=fate))) as (_, model):
        answered = await model.ask(question())

    assert [call.error for call in answered.calls] == [fault, None]


@pytest.mark.parametrize("fate", ["trickle", "hang"])
async def test_a_slow_endpoint_times_out(fate: FaultName) -> None:
    """Slow bytes would never exceed a limit per byte."""
    async with served(script(Step(fault=fate)), timeout=1.0) as (_, model):
        answered = await model.ask(question())

    assert [call.error for call in answered.calls] == [Fault.TIMEOUT, None]


async def test_answers_without_text_end_the_question() -> None:
    """Each is charged: to ask again later would end only with the budget."""
    async with served(script(otherwise=Step(fault="empty"))) as (_, model):
        with pytest.raises(AnswerInvalid, match=r"no answer had any text: model-e0: empty: .* 'stop'") as caught:
            await model.ask(question())
    async with served(script(Step(fault="server_error"), otherwise=Step(fault="empty"))) as (_, model):
        with pytest.raises(MindUnavailable):
            await model.ask(question())

    assert [call.error for call in caught.value.calls] == [Fault.EMPTY] * 3


@pytest.mark.parametrize("fate", ["server_error", "rate_limit", "malformed", "disconnect", "hang"])
async def test_a_lasting_fault_raises_unavailable_with_every_call(fate: FaultName) -> None:
    """The worker loop takes it for Transient, and the record loses nothing."""
    journal = MemoryJournal()
    async with served(script(otherwise=Step(fault=fate)), journal=journal, timeout=0.2) as (_, model):
        with pytest.raises(MindUnavailable) as caught:
            await model.ask(question())

    assert isinstance(caught.value, Transient)
    assert len(caught.value.calls) == 3
    assert [call for _, _, call in journal.calls] == list(caught.value.calls)


async def test_an_endpoint_that_does_not_listen_is_unavailable_and_costs_nothing() -> None:
    """A request that was never sent is not booked."""
    ledger = MemoryLedger()
    async with ScriptedEndpoint(script()) as server:
        url = server.base_url
    async with mind(settings(url), ledger) as model:
        with pytest.raises(MindUnavailable, match="connection failed"):
            await model.ask(question())

    assert ledger.booked("r1").tokens == 0


async def test_retry_after_is_honoured() -> None:
    """The endpoint knows best; its wait is longer than our own back-off."""
    async with served(script(Step(fault="rate_limit", retry_after=0.5))) as (_, model):
        started = time.monotonic()
        await model.ask(question())

    assert time.monotonic() - started >= 0.5


async def test_a_wait_beyond_the_time_limit_is_left_to_the_caller() -> None:
    """Instead of sleeping for minutes inside a question."""
    async with served(script(Step(fault="rate_limit", retry_after=300))) as (_, model):
        with pytest.raises(MindUnavailable) as caught:
            await model.ask(question())

    assert caught.value.delay is not None
    assert caught.value.delay >= 300


async def test_the_whole_question_has_a_time_limit() -> None:
    """Also over several attempts and models; the call in flight is recorded as cancelled."""
    async with served(script(otherwise=Step(fault="hang")), timeout=30.0, total_seconds=0.3) as (_, model):
        with pytest.raises(MindUnavailable, match=r"within 0\.3 s") as caught:
            await model.ask(question())

    assert [call.error for call in caught.value.calls] == [Fault.CANCELLED]


async def test_a_wrong_shape_is_repaired_with_the_validation_error() -> None:
    """One turn, with what was wrong."""
    wrong = Step(answer={"name": "", "program": "x = 1"})
    async with served(script(wrong)) as (server, model):
        answered = await model.ask(question())

    assert [call.error for call in answered.calls] == [Fault.INVALID, None]
    assert "name: String should have at least 1 character" in server.received[1].body


async def test_an_answer_that_stays_wrong_is_a_rejection_at_the_roles_stage() -> None:
    """After one repair, never more."""
    async with served(script(otherwise=Step(answer="no idea"))) as (server, model):
        with pytest.raises(AnswerInvalid, match="no JSON object") as caught:
            await model.ask(question(role=Role.SCORE))

    assert isinstance(caught.value, Rejected)
    assert caught.value.stage == "judge"
    assert len(server.received) == len(caught.value.calls) == 2


@pytest.mark.parametrize(
    ("size", "fault", "named"),
    [
        (LONGEST_ANSWER + 1, Fault.TOO_LONG, f"at most {LONGEST_ANSWER:,} are read"),
        (150_000, Fault.INVALID, "no JSON object"),
    ],
)
async def test_a_huge_answer_is_one_failed_call_and_leaves_the_budget(size: int, fault: Fault, named: str) -> None:
    """It is not sent back for correction: each of its characters would be reserved as a token, which ends a run."""
    ledger = MemoryLedger(Limits(tokens=20_000))
    async with served(script(Step(answer="x" * size, completion_tokens=20)), ledger=ledger) as (server, model):
        answered = await model.ask(question())

    first, second = answered.calls
    assert (first.error, second.error) == (fault, None)
    assert first.completion_tokens == 20
    assert named in server.received[1].body
    assert len(server.received[1].body) < 5_000
    assert len(first.answer) <= size


async def test_a_twice_truncated_answer_raises_an_error_that_names_the_limit() -> None:
    """It is a kind of its own: the model did nothing wrong."""
    async with served(script(otherwise=Step(fault="truncated", answer=GOOD))) as (_, model):
        with pytest.raises(AnswerTruncated, match=r"roles\.propose\.max_tokens"):
            await model.ask(question())


@pytest.mark.parametrize(("fate", "text"), [("refusal", "declines: scripted"), ("bad_request", "HTTP 400")])
async def test_a_refusal_is_final(fate: FaultName, text: str) -> None:
    """Asking again would only cost."""
    async with served(script(Step(), otherwise=Step(fault=fate))) as (server, model):
        await model.ask(question())
        with pytest.raises(MindRefused, match=text):
            await model.ask(question())

    assert len(server.received) == 2


async def test_an_endpoint_that_has_refused_every_request_rejects_no_candidate() -> None:
    """A wrong setting is the likely cause; a run ended within seconds, with all of its candidates rejected."""
    async with served(script(otherwise=Step(fault="bad_request"))) as (server, model):
        with pytest.raises(MindUnavailable, match="HTTP 400: scripted; it has refused every request so far") as caught:
            await model.ask(question())

    assert caught.value.delay == 60
    assert len(server.received) == 1


async def test_the_next_model_is_used_while_one_is_down() -> None:
    """And both are on record."""
    async with (
        ScriptedEndpoint(script(otherwise=Step(fault="server_error"))) as down,
        ScriptedEndpoint(script()) as up,
        mind(settings(down.base_url, up.base_url)) as model,
    ):
        answered = await model.ask(question())

    assert answered.calls[-1].model == "model-e1"
    assert [call.error for call in answered.calls] == [Fault.SERVER_ERROR] * 3 + [None]


async def test_the_bandit_prefers_the_model_with_more_reward() -> None:
    """Equal cost, unequal gain."""
    async with (
        ScriptedEndpoint(script()) as first,
        ScriptedEndpoint(script()) as second,
        mind(settings(first.base_url, second.base_url, choice="bandit")) as model,
    ):
        for number in range(60):
            answered = await model.ask(question(candidate=f"c{number}"))
            gain = 0.9 if answered.calls[-1].model == "model-e1" else 0.0
            await model.reward(Role.PROPOSE, answered.calls[-1].model, f"c{number}", gain)

    assert len(first.received) >= 5
    assert len(second.received) > 2 * len(first.received)


async def test_concurrency_is_limited_per_endpoint() -> None:
    """By the setting, whatever the machine; and nobody is lost in the queue."""
    async with served(script(otherwise=Step(answer=GOOD, latency=0.02)), concurrency=4) as (server, model):
        answers = await asyncio.gather(*(model.ask(question(f"number {n}")) for n in range(40)))

    assert len(answers) == 40
    assert server.most_at_once == 4


async def test_a_cancelled_question_is_booked_and_recorded() -> None:
    """The endpoint may charge for an unread answer."""
    journal, ledger = MemoryJournal(), MemoryLedger()
    async with served(script(otherwise=Step(fault="hang")), ledger, journal) as (server, model):
        task = asyncio.create_task(model.ask(question()))
        await asyncio.wait_for(server.arrived.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert [call.error for _, _, call in journal.calls] == [Fault.CANCELLED]
    assert ledger.booked("r1").tokens > 200
    assert ledger.reserved("r1").tokens == 0


@pytest.mark.parametrize("fate", ["unauthorised", "echo_key"])
async def test_the_key_appears_nowhere(fate: FaultName, caplog: pytest.LogCaptureFixture) -> None:
    """Not in records, errors or logs, although the endpoint quotes it and the prompt holds it."""
    caplog.set_level(logging.DEBUG)
    journal, shown = MemoryJournal(), ""
    async with served(script(otherwise=Step(fault=fate, answer=GOOD)), journal=journal) as (server, model):
        try:
            shown = repr(await model.ask(question(f"a log with {KEY} in it")))
        except MindError as error:
            shown = f"{error!r} {error.calls!r}"

    assert server.received[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in server.received[0].body
    assert KEY not in shown + repr(journal.calls) + caplog.text + repr(model)
    assert "[secret]" in shown


@pytest.mark.parametrize("body", ['{"detail": "no credit"}', '{"error": "no credit"}', "no credit"])
async def test_the_reason_of_a_refusal_is_kept_in_any_form(body: str) -> None:
    """The client drops what is not in OpenAI's form; an account without credit must not reject candidates."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=402, text=body)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    async with TestServer(app) as server, mind(settings(str(server.make_url("/v1")))) as model:
        with pytest.raises(MindUnavailable, match=r"HTTP 402: .*no credit.*; check"):
            await model.ask(question())


async def test_a_wrong_key_is_reported_and_the_call_is_retried_later() -> None:
    """A typing error in the settings must not reject candidates."""
    async with served(script(otherwise=Step(fault="unauthorised"))) as (server, model):
        with pytest.raises(MindUnavailable, match="check the endpoint's address, the key"):
            await model.ask(question())

    assert len(server.received) == 1


def test_no_test_connects_to_another_machine() -> None:
    """A forgotten address must not spend money."""
    environment = {"OPENAI_API_KEY": KEY, "ASI_MODEL": "x"}
    with pytest.raises(pytest.fail.Exception, match="not on this machine"):
        OpenAIMind.from_environment(environment, MemoryLedger())


async def test_an_unavailable_endpoint_is_announced_during_the_wait() -> None:
    """A user sees within seconds that the endpoint does not answer, and why."""
    heard: list[str] = []

    async def send(progress: pb.Progress) -> None:
        heard.append(progress.waits_for)

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    model = OpenAIMind(settings(address), MemoryLedger(), MemoryJournal())
    async with model, Activity("r1", "c1", "researcher", 1, send).announcing():
        with pytest.raises(MindUnavailable):
            await model.ask(question())

    assert any("the model (disconnected: the connection failed" in message for message in heard)
