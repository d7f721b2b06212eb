"""A prompt as a person is shown it."""

import json
import subprocess
import sys
from pathlib import Path

from services.llm.port import plain_schema
from services.llm.prompts import as_text, shown
from tests.llm.scripted_minds import KEY, Idea, question


async def test_without_a_configured_model_there_is_no_body() -> None:
    """The messages are exact all the same."""
    request = question("What next?")
    preview = await shown(request, {})

    assert preview["body"] is None
    assert preview["hash"] == request.prompt_hash
    assert preview["answer"] == plain_schema(Idea)


async def test_the_body_is_what_would_be_sent_and_holds_no_key() -> None:
    """A key in the text of a prompt is not shown."""
    environment = {"ASI_MODEL": "some-model", "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    preview = await shown(question(f"What next, {KEY}?"), environment)

    assert isinstance(preview["body"], dict)
    assert preview["body"]["model"] == "some-model"
    assert KEY not in json.dumps(preview["body"])


def test_the_text_names_version_and_schema() -> None:
    """For reading."""
    text = as_text(question("What next?"))

    assert text.startswith("version: ")
    assert "What next?" in text
    assert '"program"' in text


def test_a_full_disk_is_named_in_one_sentence() -> None:
    """Where a prompt is written to."""
    code = (
        "import asyncio, sys; from services.llm.prompts import print_result\n"
        "sys.exit(print_result(asyncio.sleep(0, 'prompt')))"
    )
    with Path("/dev/full").open("wb", buffering=0) as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "asi-arch: No space left on device\n")
