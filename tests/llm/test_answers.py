"""Parsing answers: all usual forms, and no others."""

import json
import time
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from services.llm.answers import JSON, Unreadable, instructions, read, schema_of
from services.llm.port import Block
from services.llm.scripted import smallest


class Part(BaseModel):
    weight: float = Field(ge=0, le=1)


class Plan(BaseModel):
    title: str = Field(min_length=1)
    parts: list[Part] = Field(min_length=1)
    note: str | None = None
    program: Annotated[str, Block("python")]


class Draft(Plan):
    program: Annotated[str, Block("python")] = ""


HEAD: dict[str, JSON] = {"title": "t", "parts": [{"weight": 0.5}]}
WHOLE = Plan.model_validate({**HEAD, "program": "x = 1\n"})


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({**HEAD, "program": "x = 1\n"}),
        f"<think>maybe {{}}?</think>\n{json.dumps({**HEAD, 'program': 'x = 1' + chr(10)})}",
        f"Sure:\n```json\n{json.dumps(HEAD)}\n```\nThe program:\n```python\nx = 1\n```\nDone.",
        f"```python\nx = 1\n```\n```json\n{json.dumps(HEAD)}\n```",
        f"````json\n{json.dumps(HEAD)}\n````\n````python\nx = 1\n````",
        f"```python\nx\n```\nis short for\n```python\nx = 1\n```\n```json\n{json.dumps(HEAD)}\n```",
        f"Here: {json.dumps({**HEAD, 'program': 'x = 1' + chr(10)})} as asked.",
    ],
)
def test_every_usual_form_is_understood(text: str) -> None:
    """Plain JSON, fences in either order, longer fences, thinking aloud, talk around it."""
    assert read(text, Plan) == WHOLE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('{"title": NaN}', "no JSON object"),
        (json.dumps(HEAD), "program: Field required"),
        (json.dumps({**HEAD, "parts": [{"weight": 3}], "program": ""}), "parts.0.weight"),
        ("[" * 100_000, "no JSON object"),
        (json.dumps({**HEAD, "parts": [{"weight": 0.5}], "program": ""}).replace("0.5", "1e999"), "is not finite"),
        ("```json\n" * 20_000, "no JSON object"),
        ("`" * 100_000 + "\n" + "~~~~\n" * 9, "no JSON object"),
    ],
)
def test_an_invalid_answer_raises_an_error_that_says_how_to_repair_it(text: str, reason: str) -> None:
    """The reason is what the model is shown."""
    with pytest.raises(Unreadable, match=reason):
        read(text, Plan)


@pytest.mark.parametrize("text", ["```json\n" * 10_000, "`" * 500_000 + "\n", "~~~python\n```\n" * 10_000])
def test_a_model_that_repeats_itself_does_not_hold_up_its_service(text: str) -> None:
    """Heartbeats and other questions share its event loop; this took minutes."""
    started = time.process_time()
    with pytest.raises(Unreadable):
        read(text, Plan)

    assert time.process_time() - started < 2


def test_fences_that_are_not_closed_do_not_hide_others() -> None:
    """And one may be closed by fewer ticks than opened it."""
    late = f"````text\nnot closed\n```json\n{json.dumps(HEAD)}\n```\n~~~ Python\nx = 1\n  ~~~ \n"
    fewer = f"````json\n{json.dumps(HEAD)}\n```\n```python\nx = 1\n```"

    assert read(late, Plan) == read(fewer, Plan) == WHOLE


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])).map(lambda text: text.replace("```", "")))
def test_any_program_survives_its_fence(program: str) -> None:
    """Quotes, backslashes, braces: a fence needs no escaping."""
    body = "".join(line + "\n" for line in program.splitlines())
    answer = read(f"```json\n{json.dumps(HEAD)}\n```\n```python\n{body}```", Plan)

    assert answer.program.splitlines() == body.splitlines()


def test_the_strict_schema_requires_every_property_and_no_other() -> None:
    """The requirements of endpoints for strict schemas."""
    schema, strict = schema_of(Plan)

    assert strict
    assert schema["required"] == ["title", "parts", "note", "program"]
    assert schema["additionalProperties"] is False
    assert "default" not in json.dumps(schema)


def test_null_stands_for_what_is_left_out() -> None:
    """At any depth; for a field that is needed, the reason says so."""
    assert read('{"title": "t", "parts": [{"weight": 0.5, "more": null}], "program": null}', Draft).program == ""
    with pytest.raises(Unreadable, match="program: Field required"):
        read(json.dumps({**HEAD, "program": None}), Plan)


def test_a_schema_with_free_keys_is_not_called_strict() -> None:
    """Endpoints refuse it otherwise."""

    class Loose(BaseModel):
        scores: dict[str, float]

    assert schema_of(Loose)[1] is False


def test_instructions_move_long_texts_out_of_the_json() -> None:
    """Programs in JSON strings are where models stumble."""
    fenced, plain = instructions(Plan, fenced=True), instructions(Plan, fenced=False)

    assert "```python" in fenced
    assert '"program"' not in fenced
    assert '"program"' in plain
    assert "unless" not in fenced
    assert "give `program`, unless it is left out, whole" in instructions(Draft, fenced=True)


def test_the_scripted_endpoint_can_answer_any_schema() -> None:
    """Its smallest answer validates."""
    assert read(json.dumps(smallest(schema_of(Plan)[0])), Plan).title == "scripted"
