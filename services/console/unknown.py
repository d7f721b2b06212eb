"""Runs and candidates that do not exist: the archive's refusal, and the names that are near."""

from __future__ import annotations

import re

import grpc
import grpc.aio

from services.chassis.errors import NotFound
from services.console.near import near
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc

_RUN = re.compile(r"no run is called (\S+)")
_CANDIDATE = re.compile(r"run (\S+) has no candidate '(.*)'")
_SECONDS = 10.0


async def not_found(archive: archive_pb2_grpc.ArchiveAsyncStub, error: grpc.aio.AioRpcError) -> NotFound:
    """What to raise in the place of a NOT_FOUND, with near names as far as they can be had."""
    sentence = error.details() or "there is no such thing"
    try:
        return NotFound(sentence + await _nearest(archive, sentence))
    except grpc.aio.AioRpcError:
        return NotFound(sentence)


async def _nearest(archive: archive_pb2_grpc.ArchiveAsyncStub, sentence: str) -> str:
    if found := _RUN.fullmatch(sentence):
        runs = [one.run for one in (await archive.ListRuns(pb.ListRunsRequest(), timeout=_SECONDS)).runs]
        return near(found[1], runs) or f"; runs: {', '.join(runs[:10]) or 'none yet'}"
    if found := _CANDIDATE.fullmatch(sentence):
        nodes = (await archive.GetTree(pb.RunRequest(run=found[1]), timeout=_SECONDS)).nodes
        return near(found[2], [name for one in nodes for name in (one.id, one.name) if name])
    return ""
