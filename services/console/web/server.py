"""Serves the page and its JSON: every number comes from the archive's gRPC service, nothing is written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from services.chassis.bus import Logged
from services.chassis.errors import BusLost
from services.console.archive import all_candidates, open_archive
from services.console.comparison import program_difference
from services.console.events import EventRow, event_row
from services.console.log import open_log
from services.console.rows import ranked, row, tree_row
from services.console.settings import ConsoleSettings, running_system
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.contracts.events_pb2 import Event

STATIC = Path(__file__).parent / "static"
ARCHIVE: web.AppKey[archive_pb2_grpc.ArchiveAsyncStub] = web.AppKey("archive")
SETTINGS: web.AppKey[ConsoleSettings] = web.AppKey("settings")
LATEST = 200
"""Events of a run that a newly opened page is shown."""
HEADERS = {
    # The page loads nothing from elsewhere and runs no script but its own file, whatever a candidate's text holds.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(archive: archive_pb2_grpc.ArchiveAsyncStub, settings: ConsoleSettings) -> web.Application:
    """The page's routes around an archive; `settings` say where the log is."""
    app = web.Application(middlewares=[_guard])
    app[ARCHIVE] = archive
    app[SETTINGS] = settings
    app.router.add_get("/", _index)
    app.router.add_get("/api/runs", _runs)
    app.router.add_get("/api/run", _run)
    app.router.add_get("/api/candidates", _candidates)
    app.router.add_get("/api/tree", _tree)
    app.router.add_get("/api/candidate", _candidate)
    app.router.add_get("/api/compare", _compare)
    app.router.add_get("/events", _events)
    app.router.add_get("/log", _log)
    app.router.add_static("/static", STATIC)
    return app


async def serve(settings: ConsoleSettings, host: str, port: int) -> None:
    """Serve until cancelled. Prints the address."""
    async with open_archive(settings) as archive:
        runner = web.AppRunner(application(archive, settings))
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        address = runner.addresses[0]
        print(f"http://{address[0]}:{address[1]}/", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Safe headers on everything; what the archive refuses becomes a status and one sentence."""
    try:
        response = await handler(request)
    except grpc.aio.AioRpcError as error:
        known = {grpc.StatusCode.NOT_FOUND: 404, grpc.StatusCode.INVALID_ARGUMENT: 400}
        response = _json({"error": error.details() or error.code().name}, known.get(error.code(), 503))
    except BusLost as error:
        response = _json({"error": str(error)}, 503)
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


async def _index(request: web.Request) -> web.StreamResponse:
    del request
    return web.FileResponse(STATIC / "index.html")


async def _runs(request: web.Request) -> web.StreamResponse:
    reply = await request.app[ARCHIVE].ListRuns(pb.ListRunsRequest(), timeout=30)
    return _json([_plain_status(one) for one in reply.runs])


async def _run(request: web.Request) -> web.StreamResponse:
    return _json(_plain_status(await _status(request)))


async def _candidates(request: web.Request) -> web.StreamResponse:
    status = await _status(request)
    records = await all_candidates(request.app[ARCHIVE], pb.ListCandidatesRequest(run=status.run, slim=True))
    root = status.loss_of_root if status.HasField("loss_of_root") else None
    return _json(ranked([row(one, root) for one in records]))


async def _tree(request: web.Request) -> web.StreamResponse:
    reply = await request.app[ARCHIVE].GetTree(pb.RunRequest(run=request.query.get("run", "")), timeout=30)
    return _json([tree_row(one) for one in reply.nodes])


async def _candidate(request: web.Request) -> web.StreamResponse:
    """The whole record with its parent, the root's curve, its relatives and its chain of events."""
    archive = request.app[ARCHIVE]
    wanted = pb.GetCandidateRequest(run=request.query.get("run", ""), candidate=request.query.get("id", ""))
    record = await archive.GetCandidate(wanted, timeout=30)
    relatives = await archive.GetRelatives(
        pb.GetRelativesRequest(run=record.run, candidate=record.id, siblings=5), timeout=30
    )
    chain = await archive.GetChain(wanted, timeout=30)
    baselines = await archive.GetBaselines(pb.GetBaselinesRequest(run=record.run), timeout=30)
    parent = relatives.parent if relatives.HasField("parent") else None
    return _json({
        "record": MessageToDict(record, preserving_proto_field_name=True),
        "row": row(record),
        "path": list(relatives.path),
        "children": [row(one) for one in relatives.children],
        "parent": MessageToDict(parent, preserving_proto_field_name=True) if parent is not None else None,
        "root": [MessageToDict(one, preserving_proto_field_name=True) for one in baselines.baselines[:1]],
        "difference": program_difference(parent, record) if parent is not None else "",
        "chain": [
            {"sequence": link.sequence, "id": link.event.id, "sha256": link.sha256, "accepted": link.accepted,
             "time": link.event.time.ToJsonString()}
            for link in chain.links
        ],
    })  # fmt: skip


async def _compare(request: web.Request) -> web.StreamResponse:
    """Two candidates: their rows, their records, and the difference of their programs."""
    archive, run = request.app[ARCHIVE], request.query.get("run", "")
    records = [
        await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=request.query.get(name, "")), timeout=30)
        for name in ("a", "b")
    ]
    return _json({
        "a": row(records[0]),
        "b": row(records[1]),
        "records": [MessageToDict(one, preserving_proto_field_name=True) for one in records],
        "difference": program_difference(*records),
    })  # fmt: skip


async def _events(request: web.Request) -> web.StreamResponse:
    """Server-sent events: the run's status now and after every change."""
    response = await _stream(request)
    watch = request.app[ARCHIVE].WatchRun(pb.RunRequest(run=request.query.get("run", "")), timeout=24 * 3600)
    try:
        async for status in watch:
            await response.write(f"data: {json.dumps(_plain_status(status))}\n\n".encode())
    except (ConnectionResetError, grpc.aio.AioRpcError):
        watch.cancel()
    return response


async def _log(request: web.Request) -> web.StreamResponse:
    """Server-sent events: the run's last facts and every further one. 404 while no laboratory keeps a log open."""
    settings = request.app[SETTINGS]
    if running_system(settings) is None and "ASI_NATS_URL" not in os.environ:
        return _json({"error": "no laboratory runs here: its log is not open"}, 404)
    status = await _status(request)
    async with open_log(settings) as bus:
        start = max(1, await bus.last_sequence() + 1 - LATEST)
        response = await _stream(request)
        async with contextlib.aclosing(bus.follow(f"asi.v1.{status.run}.>", start)) as facts:
            with contextlib.suppress(ConnectionResetError):
                earlier: dict[str | None, EventRow] = {}
                async for logged in facts:
                    await _tell(response, logged, earlier)
    return response


async def _tell(response: web.StreamResponse, logged: Logged | None, earlier: dict[str | None, EventRow]) -> None:
    """One fact; a comment while there is none, which finds out whether somebody still listens.

    `earlier` holds what was told last of each candidate: a fact carries only what it adds.
    """
    if logged is None:
        await response.write(b":\n\n")
        return
    with contextlib.suppress(DecodeError, ValueError):  # of a newer version: it is passed over
        told = event_row(logged, earlier.get(Event.FromString(logged.body).candidate))
        earlier[told["candidate"]] = told
        await response.write(f"data: {json.dumps(told)}\n\n".encode())


async def _stream(request: web.Request) -> web.StreamResponse:
    """The beginning of an answer that goes on."""
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    return response


async def _status(request: web.Request) -> pb.RunStatus:
    return await request.app[ARCHIVE].GetRun(pb.RunRequest(run=request.query.get("run", "")), timeout=30)


def _plain_status(status: pb.RunStatus) -> dict[str, object]:
    plain: dict[str, object] = MessageToDict(
        status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return plain


def _json(value: object, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)
