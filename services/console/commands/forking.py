"""A run forked from another: its history goes into the log by the store's own tool, then it goes on as a run."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from google.protobuf.json_format import MessageToJson

from services.chassis.errors import NotPossible, SettingsError
from services.console.settings import ConsoleSettings
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, events_pb2

IMPOSSIBLE = 2
SECONDS = 30.0
RATE = 200  # events a second that the slowest archive applies


async def fork_run(client: ConsoleSettings, spec: str, name: str, settings: events_pb2.RunSettings) -> int:
    """Fork `spec` as run `name`; the sequence of the log at which the fork's own life begins.

    Raises SettingsError and NotPossible with the tool's own sentence.
    """
    tool = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.store.tools", "fork", spec, name,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ASI_NATS_URL": client.nats_url, "ASI_DATA_DIR": str(client.data_dir.absolute())},
    )  # fmt: skip
    out, error = await tool.communicate(MessageToJson(settings).encode())
    if tool.returncode:
        sentence = error.decode().strip().rpartition("\n")[2].removeprefix("asi-arch: ")
        raise (SettingsError if tool.returncode == IMPOSSIBLE else NotPossible)(sentence)
    return int(json.loads(out)["sequence"])


async def until_applied(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, sequence: int) -> None:
    """Wait until the store has taken the whole history. Raises NotPossible when it refuses to, or takes too long."""
    deadline = asyncio.get_running_loop().time() + SECONDS + sequence / RATE
    while asyncio.get_running_loop().time() < deadline:
        known = {one.run: one for one in (await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs}
        if run in known and known[run].sequence >= sequence:
            return
        await asyncio.sleep(0.1)
    raise NotPossible(f"the store has not taken the history of run {run}: see the store's log")
