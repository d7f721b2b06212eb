"""The analyst's prompt from the command line, with an archive behind real gRPC."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from services.analyst.prompt import question
from services.analyst.settings import AnalystSettings
from services.chassis.rpc import Server
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2 as arc
from services.contracts import archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.llm.port import Role
from services.llm.prompts import main
from tests.analyst.analyst_records import CHILD, ROOT, Archive, candidate


class Knowing(Archive):
    """Gives the child, whole or without its verdict."""

    def __init__(self, judged: bool = True) -> None:
        super().__init__(events_pb2.RunSettings(mind="openai", baselines=["delta_net"]))
        self.child = pb.Candidate()
        self.child.CopyFrom(CHILD)
        if not judged:
            self.child.ClearField("verdict")

    async def GetBaselines(self, request: arc.GetBaselinesRequest, context: Any) -> arc.GetBaselinesReply:  # noqa: N802, ARG002
        return arc.GetBaselinesReply(baselines=[ROOT, candidate("gated_delta_net", 5, losses=(1.375,))])

    async def GetCandidate(self, request: arc.GetCandidateRequest, context: Any) -> pb.Candidate:  # noqa: N802, ARG002
        return self.child


async def told(archive: Archive, environment: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """The exit status of the command, run as a process would."""
    server = Server(ServiceSettings())
    archive_pb2_grpc.add_ArchiveServicer_to_server(archive, server.grpc)
    await server.start()
    environment.setenv("ASI_ARCHIVE_ADDRESS", f"127.0.0.1:{server.port}")
    environment.setenv("ASI_DATA_DIR", str(folder))
    try:
        return await asyncio.to_thread(main, "analyst", AnalystSettings, (Role.ANALYSE,), question, arguments)
    finally:
        await server.stop(0)


async def test_the_prompt_holds_the_relatives_and_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What the model sees is what a person is shown."""
    assert await told(Knowing(), monkeypatch, tmp_path, "analyse", "--candidate", CHILD.id, "--json") == 0

    out = capsys.readouterr().out
    shown = json.loads(out[out.index("{\n") :])  # the library logs where a test captures
    user = shown["messages"][1]["content"]
    assert all(name in user for name in ("Child", "Parent", "Sibling", "delta_net", "1.4000", "1.4500", "1.3750"))
    assert shown["answer"]["required"]


async def test_what_is_not_judged_cannot_be_analysed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One sentence, and the exit status of a no."""
    assert await told(Knowing(judged=False), monkeypatch, tmp_path, "analyse", "--candidate", CHILD.id) == 1
    assert "is not judged" in capsys.readouterr().err
