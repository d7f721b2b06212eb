"""Calls between services: their deadlines, and neighbours that start late."""

import asyncio
import errno
import io
import os
import time
from typing import cast

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from services.chassis import logs
from services.chassis.errors import NotFound, SettingsError, Transient
from services.chassis.rpc import Server, channel, is_transient, require_server
from services.chassis.settings import ServiceSettings, host_and_port, load
from services.contracts import checker_pb2, checker_pb2_grpc
from services.contracts.candidate_pb2 import CheckReport
from services.local.processes import free_port
from tests.partial_checker import PartialChecker
from tests.serving import serving

DEFAULT = 0.5


class Checker(PartialChecker):
    """Takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def Check(self, request: checker_pb2.CheckRequest, context: object) -> CheckReport:  # noqa: N802
        """The contract's name."""
        del request, context
        await asyncio.sleep(self.seconds)
        return CheckReport(passed=True)


async def serve(port: int, seconds: float = 0.0) -> Server:
    """A server of the chassis whose checks take so long."""
    server = Server(ServiceSettings(listen=f"127.0.0.1:{port}"))
    checker_pb2_grpc.add_CheckerServicer_to_server(Checker(seconds), server.grpc)
    await server.start()
    return server


async def test_a_call_without_a_deadline_gets_one_and_a_longer_one_is_not_cut_short() -> None:
    """A check of a large program takes minutes; a call without a limit must not wait for ever."""
    server = await serve(0, seconds=3 * DEFAULT)
    async with channel(f"127.0.0.1:{server.port}", ServiceSettings(), DEFAULT) as connection:
        stub = checker_pb2_grpc.CheckerStub(connection)
        patient = await stub.Check(checker_pb2.CheckRequest(), timeout=20 * DEFAULT)
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.Check(checker_pb2.CheckRequest())
    await server.stop(0)

    assert patient.passed
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 3 * DEFAULT


@pytest.mark.slow
async def test_a_proxy_of_the_environment_is_for_the_web_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not reach this machine's services, nor know their names."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    server = await serve(0, seconds=0)
    async with channel(f"127.0.0.1:{server.port}", ServiceSettings(), 5) as connection:
        report = await checker_pb2_grpc.CheckerStub(connection).Check(checker_pb2.CheckRequest())
    await server.stop(0)

    assert report.passed


async def test_a_server_that_starts_late_is_found_soon() -> None:
    """Engineers may be scaled to zero and back; by gRPC's own back-off a caller would wait for up to two minutes.

    The server starts after eight attempts, which take 14 s. With that back-off, or a shorter first wait alone, the
    deadline comes first, as the waits before a ninth would add up to 35 s or more.
    """
    attempts, enough = 0, asyncio.Event()

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()
        if attempts == 8:
            enough.set()

    port = free_port()
    refusing = await asyncio.start_server(refuse, "127.0.0.1", port)
    async with channel(f"127.0.0.1:{port}", ServiceSettings()) as connection:
        call = checker_pb2_grpc.CheckerStub(connection).Check(checker_pb2.CheckRequest(), timeout=25)
        asking, waiting = asyncio.ensure_future(call), asyncio.create_task(enough.wait())
        await asyncio.wait([asking, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        refusing.close()
        await refusing.wait_closed()
        server = await serve(port)
        assert (await asking).passed
    await server.stop(0)


@pytest.mark.parametrize("servers", [1, 2])
async def test_a_command_says_soon_that_nothing_listens_at_an_address(servers: int) -> None:
    """Its calls would wait half a minute, as those of services that start side by side do."""
    address = ",".join(f"127.0.0.1:{free_port()}" for _ in range(servers))
    started = time.monotonic()
    async with channel(address, ServiceSettings()) as connection:
        with pytest.raises(Transient, match=f"no service answers at {address} .*or correct ASI_ARCHIVE_ADDRESS"):
            await require_server(connection, address, "ASI_ARCHIVE_ADDRESS", seconds=DEFAULT)

    assert time.monotonic() - started < 10


async def test_a_server_that_is_busy_or_reports_an_outage_is_no_wrong_address() -> None:
    """Whether it can answer is for its own error to say; one of several servers is enough."""
    server = await serve(0)
    await server.report(healthy=False)
    assert REGISTRY.get_sample_value("asi_serving") == 0
    for address in (f"127.0.0.1:{server.port}", f"127.0.0.1:{free_port()},127.0.0.1:{server.port}"):
        async with channel(address, ServiceSettings()) as connection:
            await require_server(connection, address, "ASI_CHECKER_ADDRESS")
    bare = grpc.aio.server()  # without a health service
    port = bare.add_insecure_port("127.0.0.1:0")
    await bare.start()
    async with channel(f"127.0.0.1:{port}", ServiceSettings()) as connection:
        await require_server(connection, f"127.0.0.1:{port}", "ASI_CHECKER_ADDRESS")
    await bare.stop(0)
    await server.stop(0)


@pytest.mark.parametrize("address", ["localhost:²", "localhost", ":7101", "localhost:99999", f"localhost:{'1' * 5000}"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    """Not every digit belongs to a number."""
    with pytest.raises(SettingsError, match="is not an address; write host:port"):
        host_and_port(address)


class FullDisk(PartialChecker):
    """Has no room for what a check writes."""

    async def Check(self, request: checker_pb2.CheckRequest, context: object) -> CheckReport:  # noqa: N802
        """The contract's name."""
        del request, context
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_failure_of_the_server_s_machine_may_pass() -> None:
    """The caller repeats the call, perhaps elsewhere, and does not blame its own request."""
    server = Server(ServiceSettings(listen="127.0.0.1:0"))
    checker_pb2_grpc.add_CheckerServicer_to_server(FullDisk(), server.grpc)
    await server.start()
    async with channel(f"127.0.0.1:{server.port}", ServiceSettings()) as connection:
        with pytest.raises(grpc.aio.AioRpcError, match="No space left") as refused:
            await checker_pb2_grpc.CheckerStub(connection).Check(checker_pb2.CheckRequest(), timeout=30)
    await server.stop(0)

    assert is_transient(refused.value)


async def test_a_status_does_not_depend_on_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written, as its stream was closed, would become the call's error and hide the real one."""
    closed = io.StringIO()
    closed.close()
    logs.configure("engineer")
    async with (
        serving((checker_pb2_grpc.add_CheckerServicer_to_server, FullDisk())) as address,
        channel(address, ServiceSettings()) as connection,
    ):
        stub = checker_pb2_grpc.CheckerStub(connection)
        with monkeypatch.context() as patched:
            patched.setattr("sys.stderr", closed)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Check(checker_pb2.CheckRequest(), timeout=30)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "No space left" in (refused.value.details() or "")


class Unknowing(PartialChecker):
    """Has no such candidate."""

    async def Check(self, request: checker_pb2.CheckRequest, context: object) -> CheckReport:  # noqa: N802
        """The contract's name."""
        del request, context
        raise NotFound("no such candidate")


class Forwarder(PartialChecker):
    """Asks another service."""

    def __init__(self, other: "checker_pb2_grpc.CheckerAsyncStub") -> None:
        self.other = other

    async def Check(self, request: checker_pb2.CheckRequest, context: object) -> CheckReport:  # noqa: N802
        """The contract's name."""
        del context
        return await self.other.Check(request, timeout=30)


async def test_the_status_of_a_service_that_was_asked_is_passed_on() -> None:
    """A candidate that does not exist is no internal error of the judge."""
    servers = [Server(ServiceSettings(listen="127.0.0.1:0")) for _ in range(2)]
    checker_pb2_grpc.add_CheckerServicer_to_server(Unknowing(), servers[0].grpc)
    await servers[0].start()
    async with channel(f"127.0.0.1:{servers[0].port}", ServiceSettings()) as other:
        forwarder = Forwarder(checker_pb2_grpc.CheckerStub(other))
        checker_pb2_grpc.add_CheckerServicer_to_server(forwarder, servers[1].grpc)
        await servers[1].start()
        async with channel(f"127.0.0.1:{servers[1].port}", ServiceSettings()) as connection:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await checker_pb2_grpc.CheckerStub(connection).Check(checker_pb2.CheckRequest(), timeout=30)
    for server in servers:
        await server.stop(0)

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "no such candidate"


async def test_a_request_that_is_none_is_refused_with_a_sentence() -> None:
    """Nobody repeats it, as with a status that may pass."""
    server = await serve(0)
    async with channel(f"127.0.0.1:{server.port}", ServiceSettings()) as connection:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = connection.unary_unary("/asi.v1.Checker/Check")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(b"\xff\xff no request", timeout=30)
    await server.stop(0)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request cannot be read" in (refused.value.details() or "")


class Away(PartialChecker):
    """Cannot answer now, which its clients need not try again."""

    async def Check(self, request: checker_pb2.CheckRequest, context: object) -> CheckReport:  # noqa: N802
        """The contract's name."""
        del request
        metadata = (("grpc-retry-pushback-ms", "-1"),)
        call = cast("grpc.aio.ServicerContext[object, object]", context)
        await call.abort(grpc.StatusCode.UNAVAILABLE, "the database is down", metadata)


async def test_the_reason_of_a_server_is_kept_when_the_time_is_over_at_the_next() -> None:
    """A command would say only that the deadline was exceeded."""
    slow = await serve(0, seconds=60.0)
    async with (
        serving((checker_pb2_grpc.add_CheckerServicer_to_server, Away())) as away,
        channel(f"127.0.0.1:{slow.port},{away}", ServiceSettings()) as connection,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await checker_pb2_grpc.CheckerStub(connection).Check(checker_pb2.CheckRequest(), timeout=4 * DEFAULT)
    await slow.stop(0)

    assert late.value.code() is grpc.StatusCode.UNAVAILABLE
    assert late.value.details() == "the database is down"


@pytest.mark.slow
async def test_several_servers_take_turns_and_one_that_is_down_is_left_out() -> None:
    """Addresses are host names as well as IP addresses; a call waits only while no server is up."""
    servers = [await serve(0) for _ in range(2)]
    addresses = [f"localhost:{servers[0].port}", f"127.0.0.1:{free_port()}", f"localhost:{servers[1].port}"]
    async with channel(",".join(addresses), ServiceSettings()) as connection:
        stub = checker_pb2_grpc.CheckerStub(connection)
        for _ in range(3):
            assert (await stub.Check(checker_pb2.CheckRequest(), timeout=10 * DEFAULT)).passed
        await servers[0].stop(0)
        for _ in range(3):
            assert (await stub.Check(checker_pb2.CheckRequest(), timeout=10 * DEFAULT)).passed
        await servers[1].stop(0)
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as down:
            await stub.Check(checker_pb2.CheckRequest(), timeout=4 * DEFAULT)

    assert down.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert time.monotonic() - started < 8 * DEFAULT


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ASI_LISTEN", "7101", "ASI_LISTEN: '7101' is not an address; write host:port, for example 127.0.0.1:7101."),
        ("ASI_ARCHIVE_ADDRESS", ",", "ASI_ARCHIVE_ADDRESS: ',' is not an address; write host:port"),
        ("ASI_CHECKER_ADDRESS", "a:1,b", "ASI_CHECKER_ADDRESS: 'b' is not an address; write host:port"),
        ("ASI_METRICS_LISTEN", "x:y", "ASI_METRICS_LISTEN: 'x:y' is not an address; write host:port"),
        ("ASI_NATS_URL", "hub", "ASI_NATS_URL='hub' is invalid: begin it with nats:// or tls:// or ws:// or wss://."),
        ("ASI_NATS_MONITOR_URL", "hub", "ASI_NATS_MONITOR_URL='hub' is invalid: begin it with http:// or https://."),
        (
            "ASI_LOG_LEVEL",
            "loud",
            "ASI_LOG_LEVEL='loud' is invalid: Input should be 'debug', 'info', 'warning'",
        ),
    ],
)
def test_an_invalid_address_or_choice_is_refused_with_what_is_possible(variable: str, value: str, message: str) -> None:
    """When settings are read: a service would wait for its broker first, and then refuse its own address."""
    with pytest.raises(SettingsError) as raised:
        load(ServiceSettings, "judge", {variable: value})

    assert str(raised.value).startswith(message)
