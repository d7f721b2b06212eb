"""The researcher's prompts from the command line, with an archive behind real gRPC."""

import asyncio
import json

import pytest

from services.contracts import candidate_pb2 as pb
from services.llm.embedder import LocalEmbedder
from services.llm.port import Role
from services.llm.prompts import main
from services.researcher.app import ResearcherSettings
from services.researcher.tools import question
from tests.researcher.researcher_fixtures import PARENT, PARENT_PROGRAM, Archive, Neighbours, settings_of

ROLES = (Role.PROPOSE, Role.JUDGE_NOVELTY)


def archive() -> Archive:
    """The parent, a candidate whose motivation is embedded, and one whose motivation is not."""
    embedded = pb.Candidate(id="c000002", run="r1", proposal=pb.Proposal(name="Slots", motivation="Keys are slots."))
    embedded.proposal.motivation_embedding.extend(LocalEmbedder(64).vector("Keys are slots.").values)
    embedded.proposal.embedder = "hashed-64-v1"
    imported = pb.Candidate(id="c000003", run="r1", proposal=pb.Proposal(name="Imported", motivation="It is there."))
    return Archive(settings_of(), known=[PARENT, embedded, imported])


async def run_command(neighbours: Neighbours, environment: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of the command, run as a process would."""
    async with neighbours.served() as address:
        environment.setenv("ASI_ARCHIVE_ADDRESS", address)
        environment.setenv("ASI_COGNITION_ADDRESS", address)
        return await asyncio.to_thread(main, "researcher", ResearcherSettings, ROLES, question, arguments)


@pytest.mark.parametrize(
    ("role", "candidate", "content"),
    [
        ("propose", "c000001", PARENT_PROGRAM[:200]),
        ("judge_novelty", "c000002", "[c000001] DeltaNet"),
    ],
)
async def test_a_prompt_shows_what_would_be_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str, candidate: str, content: str
) -> None:
    """Version, system and user text, filled in."""
    assert await run_command(Neighbours(archive()), monkeypatch, role, "--candidate", candidate, "--json") == 0

    shown = json.loads(capsys.readouterr().out)
    assert [message["role"] for message in shown["messages"]] == ["system", "user"]
    assert content in shown["messages"][1]["content"]
    assert shown["version"]


async def test_the_tokens_of_each_part_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the prompt's headings, under its version; the parts add up."""
    assert await run_command(Neighbours(archive()), monkeypatch, "propose", "--candidate", "c000001", "--parts") == 0

    rows = dict(line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "---" not in line)
    assert rows.pop(next(iter(rows))) == "tokens"
    total = int(rows.pop("all").replace(",", ""))
    assert sum(int(tokens.replace(",", "")) for tokens in rows.values()) == total
    assert {"[system]", "Parent", "Noise", "the answer's schema"} <= rows.keys()
    command = ("propose", "--candidate", "c000001", "--parts", "--json")
    assert await run_command(Neighbours(archive()), monkeypatch, *command) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tokens"] == total
    assert {row["part"] for row in shown["parts"]} == set(rows)


async def test_a_candidate_that_nobody_embedded_has_no_neighbours_to_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An imported one, say: an empty list would look like novelty."""
    assert await run_command(Neighbours(archive()), monkeypatch, "judge_novelty", "--candidate", "c000003") == 1
    assert "no embedded motivation" in capsys.readouterr().err
