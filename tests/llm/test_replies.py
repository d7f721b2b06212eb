"""Replies that deviate from the protocol and are in use."""

import json
from typing import Any

import pytest

from services.llm.answers import classify, completion_of
from services.llm.port import Fault

ANSWER = json.dumps({"name": "\u2028A"}, ensure_ascii=False)
TEXT = {"type": "text", "text": ANSWER}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


def reply(usage: Any = USAGE, finish: str = "stop", **message: Any) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


def stream(*deltas: dict[str, Any]) -> str:
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
    lines = "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks)
    return f": waiting\n\n{lines}data: [DONE]\n\n"


@pytest.mark.parametrize(
    "text",
    [
        reply(content=ANSWER, reasoning_content="hm"),
        reply(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, TEXT]),
        reply(content=None, reasoning_content=ANSWER),
        reply(content="", reasoning=ANSWER),
        stream({"role": "assistant"}, {"reasoning": "hm"}, {"content": ANSWER[:5]}, {"content": ANSWER[5:]}),
    ],
    ids=["thoughts", "parts", "only thoughts", "other name", "stream"],
)
def test_the_answer_is_found(text: str) -> None:
    """A stream is joined; an answer that a server took for thoughts counts, since it is validated anyway."""
    completion = completion_of(text)

    assert classify(completion) == (None, ANSWER, "")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3


def test_thoughts_that_were_cut_off_are_no_answer() -> None:
    """More tokens are needed, not a repair."""
    fault, text, _ = classify(completion_of(reply(finish="length", content=None, reasoning_content="So")))

    assert (fault, text) == (Fault.TRUNCATED, "")


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": -1}])
def test_an_answer_with_unusable_counts_stays_an_answer(usage: Any) -> None:
    """Its cost is unknown, so its reservation is booked."""
    completion = completion_of(reply(usage, content=ANSWER))

    assert classify(completion)[0] is None
    assert completion.usage is None
