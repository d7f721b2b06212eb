"""Requests in the form that an endpoint supports, which is remembered."""

import pytest

from services.llm.exchange import RequestFormat
from services.llm.port import Fault
from services.llm.scripted import Step
from tests.llm.scripted_minds import GOOD, Idea, question, script, served


async def test_an_endpoint_without_schemas_gets_instructions_and_is_remembered() -> None:
    """The second question does not try json_schema again."""
    async with served(script(otherwise=Step(fault="unsupported_schema", answer=GOOD))) as (_, model):
        first = await model.ask(question())
        second = await model.ask(question())

    assert [call.error for call in first.calls] == [Fault.UNSUPPORTED, None]
    assert [call.error for call in second.calls] == [None]


@pytest.mark.parametrize(
    ("complaint", "removed", "remaining"),
    [
        ("Unsupported parameter: 'max_tokens'; use 'max_completion_tokens'", '"max_tokens"', '"max_completion_tokens"'),
        ("Unsupported value: 'temperature' does not support 0.7", '"temperature"', '"max_tokens"'),
        ("invalid temperature: only 1 is allowed for this model", '"temperature"', '"max_tokens"'),
        ("This model only supports stream mode", '"stream":false', '"stream":true'),
        ("Invalid max_tokens value, the valid range is [1, 150]", '"max_tokens":200', '"max_tokens":150'),
        ("max_tokens is too large: 200. At most 150 are supported", '"max_tokens":200', '"max_tokens":150'),
        ("The JSON schema contains features that xgrammar lacks", '"json_schema"', '"json_object"'),
    ],
)
async def test_parameters_that_a_model_refuses_are_left_out(complaint: str, removed: str, remaining: str) -> None:
    """Reasoning models take neither a temperature nor the old name of the limit."""
    async with served(script(Step(fault="bad_request", message=complaint))) as (server, model):
        await model.ask(question())

    assert removed not in server.received[1].body
    assert remaining in server.received[1].body


@pytest.mark.parametrize(("prompt", "limit"), [(600, None), (7000, 7000)])
def test_the_length_of_a_short_prompt_is_not_taken_for_the_limit_of_answers(prompt: int, limit: int | None) -> None:
    """All later answers would be cut off there."""
    complaint = f"max_tokens is too large: 16384. The maximum context length is 16384 (16384 > 16384 - {prompt})"
    adapted = RequestFormat().after(complaint, 16384)

    assert (adapted and adapted.most_tokens) == limit


async def test_programs_travel_unescaped_where_json_is_not_enforced() -> None:
    """The documented fallback: one JSON fence, one Python fence."""
    program = 'def f():\n    """Say "hi"."""\n    return "\\n"\n'
    text = f'Here it is.\n```json\n{{"name": "Quoted"}}\n```\nand\n```python\n{program}```\n'
    async with served(script(otherwise=Step(answer=text)), structured="text") as (server, model):
        answered = await model.ask(question())

    assert answered.answer == Idea(name="Quoted", program=program)
    assert "response_format" not in server.received[0].body
