"""One proposal from the command line, with an archive behind real gRPC."""

import asyncio
import json

import pytest

from services.domain.structure import fingerprint
from services.researcher.tools import run
from tests.researcher.researcher_fixtures import PARENT_PROGRAM, Archive, Neighbours, settings_of


async def run_command(neighbours: Neighbours, environment: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of the command, run as a process would."""
    async with neighbours.served() as address:
        environment.setenv("ASI_ARCHIVE_ADDRESS", address)
        environment.setenv("ASI_COGNITION_ADDRESS", address)
        return await asyncio.to_thread(run, arguments)


async def test_propose_shows_a_new_child(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The same draw twice is the same proposal; another seed gives another one."""
    neighbours = Neighbours(Archive(settings_of()))
    shown = []
    for seed in ("1", "1", "2"):
        assert (
            await run_command(neighbours, monkeypatch, "propose", "--parent", "c000001", "--seed", seed, "--json") == 0
        )
        shown.append(json.loads(capsys.readouterr().out))

    assert shown[0] == shown[1] != shown[2]
    assert shown[0]["parent"] == "c000001"
    assert fingerprint(shown[0]["program"]) != fingerprint(PARENT_PROGRAM)
    assert neighbours.cognition.queries


async def test_propose_is_readable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Name, parent and mind, then the motivation and the program."""
    assert await run_command(Neighbours(Archive(settings_of())), monkeypatch, "propose", "--parent", "c000001") == 0

    shown = capsys.readouterr().out
    assert "a child of DeltaNet (c000001), by offline search" in shown
    assert "class " in shown


async def test_an_unknown_candidate_gives_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a traceback."""
    assert await run_command(Neighbours(Archive(settings_of())), monkeypatch, "propose", "--parent", "nobody") == 1
    assert capsys.readouterr().err == "asi-arch: the archive: run r1 has no candidate 'nobody'\n"
