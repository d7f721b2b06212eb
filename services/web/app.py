"""The page's routes: read-only JSON of the archive's records, server-sent events, and files without external assets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf.message import DecodeError

from services.archive.artifacts import ArtifactDamaged, FsspecArtifacts
from services.archive.scoring import benchmark_gain
from services.chassis import tasks
from services.chassis.bus.subjects import fact_of
from services.chassis.errors import BusLost, NotFound, SettingsError, Transient, printable
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2, events_pb2
from services.local.archive import open_archive
from services.local.log import open_log
from services.local.settings import ClientSettings, running_system
from services.report.rows import LONG_LABEL, as_dict, gain_over, label_of, mean_curves
from services.web.live import ArchiveConnection, RunLog, Stub
from services.web.table import RunTable, web_row

STATIC = Path(__file__).parent / "static"
KEPT_RUNS = 6
RUNS_SECONDS = 3.0
COMPRESSED_FROM = 32_768
MAX_CURVES = 200
HEADERS = {
    # The page loads nothing from elsewhere and runs only its own scripts, whatever a candidate's text contains.
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
STATUS_OF = {grpc.StatusCode.NOT_FOUND: 404, grpc.StatusCode.INVALID_ARGUMENT: 400}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Record: TypeAlias = candidate_pb2.Candidate
Opened = Callable[[], AbstractAsyncContextManager[Stub]]


class Pages:
    """The state shared by all open pages: the archive's connection, and the table and log of recent runs."""

    def __init__(self, archive: ArchiveConnection, settings: ClientSettings) -> None:
        self.archive, self.settings = archive, settings
        self.artifacts = FsspecArtifacts(settings.artifacts)
        self.histories: dict[str, tuple[int, dict[str, object]]] = {}
        self._runs: dict[str, tuple[RunTable, RunLog]] = {}

    async def run(self, name: str) -> tuple[RunTable, RunLog]:
        """The table of a run, by default the newest. Raises AioRpcError."""
        if name not in self._runs:
            name = (await self.archive.call("GetRun", pb.RunRequest(run=name))).run
        if name not in self._runs:
            self._runs[name] = RunTable(self.archive, name), RunLog(self.settings, name)
            while len(self._runs) > KEPT_RUNS:
                await self._close(next(iter(self._runs)))
        return self._runs[name]

    async def close(self) -> None:
        for name in list(self._runs):
            await self._close(name)
        await self.archive.close()

    async def _close(self, name: str) -> None:
        for part in self._runs.pop(name):
            await part.close()


PAGES: web.AppKey[Pages] = web.AppKey("pages")


def application(opened: Opened, settings: ClientSettings) -> web.Application:
    """The page's routes on the archive that `opened` opens; `settings` locate log and artifacts."""
    app = web.Application(middlewares=[_guard])

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        archive = ArchiveConnection(opened, lambda: running_system(settings))
        await archive.stub()  # starting a reader takes seconds, so it is done before the address is printed
        app[PAGES] = Pages(archive, settings)
        with contextlib.suppress(grpc.aio.AioRpcError, NotFound):
            table, _ = await app[PAGES].run("")
            await table.snapshot()
        yield
        await app[PAGES].close()

    app.cleanup_ctx.append(lifetime)
    for handler in (_runs, _table, _candidate, _gains, _curves, _chain, _compare, _call, _history):
        app.router.add_get(f"/api/{handler.__name__.removeprefix('_')}", handler)
    app.router.add_get("/", _index)
    app.router.add_get("/events", _events)
    app.router.add_static("/static", STATIC)
    return app


async def serve(settings: ClientSettings, host: str, port: int) -> None:
    """Serve until cancelled. Prints the address. Raises NotFound when there is neither a system nor an archive."""
    runner = web.AppRunner(application(lambda: open_archive(settings), settings), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        address = runner.addresses[0]
        print(f"http://{address[0]}:{address[1]}/", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Security headers for all responses; errors of the archive as a status and one sentence."""
    try:
        response = await handler(request)
    except grpc.aio.AioRpcError as error:
        response = _json({"error": error.details() or error.code().name}, STATUS_OF.get(error.code(), 503))
    except NotFound as error:
        response = _json({"error": str(error)}, 404)
    except (BusLost, SettingsError, Transient) as error:
        response = _json({"error": str(error)}, 503)
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


async def _index(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(STATIC / "index.html")


async def _runs(request: web.Request) -> web.StreamResponse:
    return _json(await _list_runs(request.app[PAGES]))


async def _list_runs(pages: Pages) -> list[dict[str, str]]:
    reply = await pages.archive.call("ListRuns", pb.ListRunsRequest())
    return [{"run": run.run, "phase": run.phase, "origin": run.origin} for run in reply.runs]


async def _table(request: web.Request) -> web.StreamResponse:
    """The status of a run and all of its candidates as rows."""
    table, _ = await request.app[PAGES].run(request.query.get("run", ""))
    return _json(await table.snapshot())


async def _candidate(request: web.Request) -> web.StreamResponse:
    """The records of a candidate and its parent, and the rows that it is compared with."""
    record, parent, controls, others = await _with_others(request)
    return _json({
        "record": _plain(record),
        "row": web_row(record),
        "parent": None if parent is None else _plain(parent),
        "controls": [{"row": web_row(control), "curve": mean_curves(control)} for control in controls],
        "compared": [_without_gains(other) for other in others],
    })  # fmt: skip


async def _gains(request: web.Request) -> web.StreamResponse:
    """The candidate's gains over its parent and each control; their intervals take a moment to compute."""
    record, _, _, others = await _with_others(request)
    return _json(await asyncio.to_thread(lambda: [_gains_over(other, record) for other in others]))


async def _with_others(request: web.Request) -> tuple[Record, Record | None, list[Record], list[Record]]:
    """The requested candidate, its parent, the controls of its run, and those of them that it is compared with."""
    pages = request.app[PAGES]
    record = await pages.archive.call("GetCandidate", _named(request))
    ids = pb.GetCandidatesRequest(run=record.run, candidates=[record.proposal.parent] if record.proposal.parent else [])
    parents, controls = await asyncio.gather(
        pages.archive.call("GetCandidates", ids),
        pages.archive.call("GetBaselines", pb.GetBaselinesRequest(run=record.run)),
    )
    others = {other.id: other for other in (*parents.candidates, *controls.baselines) if other.id != record.id}
    return record, next(iter(parents.candidates), None), list(controls.baselines), list(others.values())


def _named(request: web.Request, parameter: str = "id") -> pb.GetCandidateRequest:
    return pb.GetCandidateRequest(run=request.query.get("run", ""), candidate=request.query.get(parameter, ""))


def _gains_over(other: Record, record: Record) -> dict[str, object]:
    """The gains of `record` over `other`, with 95 % intervals."""
    gain, benchmark = gain_over(other, record), benchmark_gain(record, other)
    both = record.training.HasField("benchmark") and other.training.HasField("benchmark")
    return _without_gains(other) | {
        "loss": None if gain is None else {
            "mean": gain.mean, "low": gain.interval.low, "high": gain.interval.high, "seeds": gain.seeds,
            "words": gain.conclusion,
        },
        "benchmark": None if benchmark is None or not both else {
            "mean": record.training.benchmark - other.training.benchmark, "low": benchmark.low, "high": benchmark.high,
        },
    }  # fmt: skip


def _without_gains(other: Record) -> dict[str, object]:
    """A candidate that another one is compared with."""
    row = web_row(other)
    return {"id": other.id, "name": row["name"], "row": row, "loss": None, "benchmark": None}


async def _compare(request: web.Request) -> web.StreamResponse:
    """The records of two candidates, and the gains of the second."""
    archive = request.app[PAGES].archive
    first, second = await asyncio.gather(*(archive.call("GetCandidate", _named(request, name)) for name in ("a", "b")))
    compared = await asyncio.to_thread(_gains_over, first, second)
    return _json({"records": [_plain(first), _plain(second)], "compared": compared})


async def _curves(request: web.Request) -> web.StreamResponse:
    """Curves of several candidates: by id, pairs of step and loss, averaged over seeds."""
    ids = [name for name in request.query.get("ids", "").split(",") if name]
    if len(ids) > MAX_CURVES:
        return _json({"error": f"ids names {len(ids)} candidates; at most {MAX_CURVES} curves are given"}, 400)
    message = pb.GetCandidatesRequest(run=request.query.get("run", ""), candidates=ids)
    records = (await request.app[PAGES].archive.call("GetCandidates", message)).candidates
    return _json({record.id: mean_curves(record) for record in records})


async def _chain(request: web.Request) -> web.StreamResponse:
    """The chain of events of one candidate, oldest first."""
    reply = await request.app[PAGES].archive.call("GetChain", _named(request))
    return _json([
        {"sequence": link.sequence, "id": link.event.id, "service": link.event.service, "sha256": link.sha256,
         "accepted": link.accepted, "refused_because": link.refused_because, "time": link.event.time.ToJsonString()}
        for link in reply.links
    ])  # fmt: skip


async def _call(request: web.Request) -> web.StreamResponse:
    """The prompt and the answer of one call to a model, by its place in the candidate's record."""
    pages = request.app[PAGES]
    record = await pages.archive.call("GetCandidate", _named(request))
    try:
        call = record.calls[int(request.query.get("call", ""))]
    except (ValueError, IndexError):
        return _json({"error": f"call must be a number below {len(record.calls)}"}, 404)
    return _json({"prompt": await _text(pages, call, "prompt"), "answer": await _text(pages, call, "answer")})


async def _text(pages: Pages, call: candidate_pb2.Call, part: str) -> str | None:
    if not call.HasField(part):  # type: ignore[arg-type]
        return None
    try:
        return (await pages.artifacts.get(getattr(call, part))).decode(errors="replace")
    except FileNotFoundError:
        return None
    except ArtifactDamaged as error:
        return f"not shown: {error}"


async def _history(request: web.Request) -> web.StreamResponse:
    """All facts for the playback: sequence, seconds since 1970, candidate, fact."""
    pages = request.app[PAGES]
    status = await pages.archive.call("GetRun", pb.RunRequest(run=request.query.get("run", "")))
    history = pages.histories.get(status.run)
    if history is None or history[0] != status.sequence:
        facts = await _facts(pages.settings, status.run)
        pages.histories[status.run] = history = (status.sequence, {"facts": facts})
    return _json(history[1])


async def _facts(settings: ClientSettings, run: str) -> list[tuple[int, float, str, str]]:
    """Read the run's log. Raises BusLost and SettingsError if it is unavailable."""
    facts: list[tuple[int, float, str, str]] = []
    async with open_log(settings) as bus:
        async for logged in bus.read_log(f"asi.v1.{run}.>"):
            with contextlib.suppress(DecodeError, ValueError):
                event = events_pb2.Event.FromString(logged.body)
                when = event.time.seconds + event.time.nanos / 1e9
                facts.append((logged.sequence, round(when, 3), event.candidate, fact_of(event)))
            if len(facts) % 200 == 0:
                await asyncio.sleep(0)  # decoding thousands of events must not block other pages
    return facts


async def _events(request: web.Request) -> web.StreamResponse:
    """Server-sent events: status and changed rows, facts of the log, trainings in progress, the list of runs."""
    pages = request.app[PAGES]
    table, log = await pages.run(request.query.get("run", ""))
    version = request.query.get("version", "")
    known = int(version) if version.isdecimal() and len(version) < 20 else 0
    changes = table.changes(request.query.get("epoch", ""), known)
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    messages: asyncio.Queue[str] = asyncio.Queue(maxsize=100)

    async def pump(name: str, source: AsyncIterator[object]) -> None:
        async for item in source:
            await messages.put(":\n\n" if item is None else f"event: {name}\ndata: {_dumps(item)}\n\n")

    pumps = [
        asyncio.create_task(pump("change", changes)),
        asyncio.create_task(pump("facts", log.facts())),
        asyncio.create_task(pump("progress", log.progress.changes())),
        asyncio.create_task(pump("runs", _changing_runs(pages))),
    ]
    try:
        with contextlib.suppress(ConnectionResetError):
            while not any(pump.done() for pump in pumps):
                with contextlib.suppress(TimeoutError):
                    await response.write((await asyncio.wait_for(messages.get(), 1)).encode())
    finally:
        await tasks.end(*pumps)
    return response


async def _changing_runs(pages: Pages) -> AsyncIterator[object]:
    """The list of runs, and again after each change."""
    last: object = None
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError, NotFound, Transient):  # the table reports it
            runs = await _list_runs(pages)
            if runs != last:
                last = runs
                yield {"runs": runs}
        await asyncio.sleep(RUNS_SECONDS)


def _plain(record: Record) -> dict[str, object]:
    plain = as_dict(record)
    if proposal := plain.get("proposal"):
        proposal.pop("motivation_embedding", None)
        proposal["name"] = label_of(record, LONG_LABEL)
    return plain


def _json(value: object, status: int = 200) -> web.Response:
    response = web.json_response(value, status=status, dumps=_dumps)
    if len(response.text or "") > COMPRESSED_FROM:
        response.enable_compression()
    return response


def _dumps(value: object) -> str:
    """JSON without what controls the direction of text, with which a program would read otherwise than it runs."""
    return printable(json.dumps(value, ensure_ascii=False))
