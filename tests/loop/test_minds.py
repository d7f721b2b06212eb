"""A run that thinks through an OpenAI-compatible endpoint, and its replay without one."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.domain.zoo import baseline
from tests.loop.conftest import Command, micro_flags, rows_of

PROSE = "The change does what was meant, and the measured loss bears it out within its error."
ANALYSIS = dict.fromkeys(("design_evaluation", "results", "expectation", "explanation", "synthesis"), PROSE)
SCORES = dict.fromkeys(("performance", "innovation", "complexity"), 6.0) | {
    f"{name}_reason": "As the numbers say." for name in ("performance", "innovation", "complexity")
}
PROPOSAL = {
    "name": "GatedValueMixer",
    "motivation": "The parent forgets values that matter at once; a gated way past the memory keeps them at no cost.",
    "components": ["value-residual", "delta-rule"],
    "ideas": [{"text": "values go past the memory", "origin": "original"}],
    "program": baseline("delta_net_value_skip").program.replace("class DeltaNet", "class GatedValueMixer"),
}
SCRIPT = {
    "steps": [
        {"contains": "You design token mixers", "fault": "rate_limit", "retry_after": 0.1},
        {"contains": "up to 1 made", "answer": {**PROPOSAL, "name": "FirstThought", "experiment": "compare"}},
        {"contains": "You design token mixers", "answer": PROPOSAL, "times": 20},
        {"contains": "You judge neural architectures", "answer": SCORES, "times": 50},
        {"contains": "You explain experiments", "answer": ANALYSIS, "times": 50},
        {
            "contains": "You condense",
            "answer": {"summary": "It is a delta rule with a short convolution."},
            "times": 50,
        },
        {"contains": "You decide whether", "answer": {"repeat": False, "reason": "It is new."}, "times": 50},
    ]
}
EXPERIMENTS = ("--policy", "experiments=1")
RUN = ("run", "--candidates", "1", "--baselines", "delta_net", *micro_flags(), "--json")


@pytest.fixture
def endpoint(tmp_path: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The scripted endpoint as a process; the environment names it."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    server = subprocess.Popen(
        [sys.executable, "-m", "services.llm.scripted", "--port", "0", "--script", str(script)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    environment["OPENAI_BASE_URL"] = server.stdout.readline().strip()
    environment["OPENAI_API_KEY"] = "sk-test-not-a-secret"
    environment["ASI_MODEL"] = "scripted-model"
    yield server
    server.kill()
    server.wait(10)


@pytest.mark.slow
def test_a_model_proposes_judges_and_analyses_and_its_answers_replay_without_it(
    endpoint: subprocess.Popen[str], environment: dict[str, str], asi_arch: Command
) -> None:
    """Every call is in the candidate's record, a quick experiment before it too; the recorded run asks nobody and
    proposes the same."""
    ranked = rows_of(asi_arch(*RUN, *EXPERIMENTS, "--mind", "openai", "--run", "first"))
    proposal = next(row for row in ranked if row["kind"] == "proposal")
    record = json.loads(asi_arch("show", str(proposal["id"]), "--json").stdout)

    assert proposal["state"] == "archived", proposal["reason"]
    assert proposal["name"] == "GatedValueMixer"
    assert {call["role"] for call in record["calls"]} >= {"propose", "score", "analyse"}
    content = b"".join(file.read_bytes() for file in Path(environment["ASI_DATA_DIR"]).rglob("*") if file.is_file())
    assert re.search(
        rb"experiment 1 \(compare\) with FirstThought\\n\\nit: \d\.\d+ at step \d+[^\n]*; the parent", content
    )
    assert record["verdict"]["scores"]["complexity"] == 6.0
    assert record["analysis"]["results"] == PROSE
    assert record["proposal"]["prompt_version"].startswith("propose-")
    assert b"sk-test-not-a-secret" not in content

    endpoint.kill()
    del environment["OPENAI_BASE_URL"], environment["ASI_MODEL"]
    again = rows_of(asi_arch(*RUN, *EXPERIMENTS, "--mind", "recorded:first", "--run", "second"))
    replayed = next(row for row in again if row["kind"] == "proposal")
    second = json.loads(asi_arch("show", str(replayed["id"]), "--run", "second", "--json").stdout)
    assert second["proposal"]["program"] == record["proposal"]["program"]
    assert second["verdict"]["raw"] == record["verdict"]["raw"]
