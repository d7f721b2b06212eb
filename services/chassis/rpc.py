"""gRPC servers and channels: deadlines on both sides, typed errors as status codes, health and reflection."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Self, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.chassis import metrics, telemetry
from services.chassis.errors import Busy, NotFound, NotPossible, SettingsError, Transient, is_of_the_machine
from services.chassis.logs import get_logger
from services.chassis.settings import ServiceSettings, addresses, host_and_port, refuse_pass_phrase

DEADLINE_SECONDS = 30.0
MESSAGE_BYTES = 64 * 1024 * 1024
REPLICA_SECONDS = 0.5
REACH_SECONDS = 5.0

# Calls wait for a restarting server. A timeout in this configuration would override longer ones of calls.
_SERVICE_CONFIG = """{
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{"name": [{}], "waitForReady": true, "retryPolicy": {
        "maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "3s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]
    }}]
}"""
_LIMITS = [("grpc.max_send_message_length", MESSAGE_BYTES), ("grpc.max_receive_message_length", MESSAGE_BYTES)]
# gRPC's default back-off grows to two minutes, which delays the connection to a server that starts late.
_RECONNECT = [("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 1000)]
_STATUS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),
    (Busy, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NotPossible, grpc.StatusCode.FAILED_PRECONDITION),
    (Transient, grpc.StatusCode.UNAVAILABLE),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)
_TRANSIENT = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "UNKNOWN"}
_OURS = "/asi.v1."
TRACE_HEADERS = frozenset({"traceparent", "tracestate"})


class Server:
    """A gRPC server with health and reflection. `add` the services, then `start`."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        # Without so_reuseport=0 two servers could share a port without an error.
        self.grpc = grpc.aio.server(interceptors=[_Guard()], options=[*_LIMITS, ("grpc.so_reuseport", 0)])
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        self.port = 0

    async def start(self, *names: str) -> None:
        """Listen. `names` are the full names of the services that were added. Raises OSError when the port is taken."""
        reflection.enable_server_reflection([health.SERVICE_NAME, reflection.SERVICE_NAME, *names], self.grpc)
        listen, keys = self._settings.listen, key_files(self._settings)
        host_and_port(listen)  # raises SettingsError
        try:
            if keys is None:
                self.port = self.grpc.add_insecure_port(listen)
            else:
                ca, key, certificate = keys
                credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
                self.port = self.grpc.add_secure_port(listen, credentials)
        except RuntimeError:
            raise OSError(
                f"cannot listen on ASI_LISTEN={listen}: the port is taken, or the host is not this machine"
            ) from None
        await self.grpc.start()

    async def report(self, healthy: bool, name: str = "") -> None:
        """Set the answer of the health service, for the whole service or for the condition `name`."""
        status = health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(name, status)
        if not name:
            metrics.SERVING.set(healthy)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let the running ones end within `grace` seconds."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace)


def channel(servers: str, settings: ServiceSettings, deadline: float = DEADLINE_SECONDS) -> grpc.aio.Channel:
    """A channel to one or several comma-separated addresses, which take turns.

    `deadline` (seconds) applies to unary calls without a timeout of their own.
    """
    parts = addresses(servers)
    for part in parts:
        host_and_port(part)  # raises SettingsError
    keys = key_files(settings)
    # Services reach one another as they reach the broker: without the proxy that the environment names for the web.
    options = [*_LIMITS, *_RECONNECT, ("grpc.service_config", _SERVICE_CONFIG), ("grpc.enable_http_proxy", 0)]
    connect: Callable[..., grpc.aio.Channel] = grpc.aio.insecure_channel
    if keys is not None:
        connect = partial(grpc.aio.secure_channel, credentials=grpc.ssl_channel_credentials(*keys))
    channels = [connect(part, options=options, interceptors=[_CallDefaults(deadline)]) for part in parts]
    return channels[0] if len(channels) == 1 else cast("grpc.aio.Channel", _Replicas(channels, deadline))


async def require_server(
    connection: grpc.aio.Channel, servers: str, variable: str, seconds: float = REACH_SECONDS
) -> None:
    """Raises Transient naming `variable`, the setting of the addresses, if no server can be reached within `seconds`.

    For commands. Services that start side by side wait for one another: their calls do so until the deadline.
    """
    check = health_pb2_grpc.HealthStub(connection).Check  # type: ignore[attr-defined]
    try:
        await check(health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=False)
    except grpc.aio.AioRpcError as error:
        if connection.get_state() is grpc.ChannelConnectivity.READY:  # it is there: busy, or without a health service
            return
        details = (error.details() or "").rpartition(": ")[2].strip("[]")
        reason = f"within {seconds:g} s" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else f"({details})"
        raise Transient(f"no service answers at {servers} {reason}: start it, or correct {variable}") from None


class _Replicas:
    """Channels to servers of the same kind, as stubs use them; a call goes to the next one that is connected.

    A list of addresses in gRPC's own target takes IP addresses only, and all servers would need one certificate's name.
    """

    def __init__(self, channels: Sequence[grpc.aio.Channel], deadline: float) -> None:
        self._channels = channels
        self._deadline = deadline
        self._turn = 0

    def unary_unary(self, *method: Any, **codec: Any) -> Any:
        """A call that tries the servers in turn until one answers or the time is over."""
        calls = [(part, part.unary_unary(*method, **codec)) for part in self._channels]

        async def call(request: Any, **options: Any) -> Any:
            loop = asyncio.get_running_loop()
            seconds = options.pop("timeout", None)
            end = loop.time() + (self._deadline if seconds is None else seconds)
            options["wait_for_ready"] = False  # one that is down must not hold up the call
            unavailable: grpc.aio.AioRpcError | None = None
            while True:
                for call_server in self._in_turn(calls):
                    try:
                        return await call_server(request, timeout=max(0.0, end - loop.time()), **options)
                    except grpc.aio.AioRpcError as error:
                        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and unavailable is not None:
                            raise unavailable from None  # which says why, in contrast to the end of the time
                        if error.code() is not grpc.StatusCode.UNAVAILABLE or end - loop.time() < REPLICA_SECONDS:
                            raise
                        unavailable = error
                await asyncio.sleep(REPLICA_SECONDS)

        return call

    def unary_stream(self, *method: Any, **codec: Any) -> Any:
        """A call to the next connected server."""
        calls = [(part, part.unary_stream(*method, **codec)) for part in self._channels]
        return lambda request, **options: self._in_turn(calls)[0](request, **options)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY if any server is connected, else the state of one of the channels."""
        states = [part.get_state(try_to_connect) for part in self._channels]
        return next((state for state in states if state is grpc.ChannelConnectivity.READY), states[0])

    def _in_turn(self, calls: Sequence[tuple[grpc.aio.Channel, Any]]) -> list[Any]:
        """The calls of connected servers, of all while none is connected; each time another one first."""
        self._turn += 1
        ready = [call for part, call in calls if part.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY]
        ready = ready or [call for _, call in calls]
        first = self._turn % len(ready)
        return ready[first:] + ready[:first]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Close all channels."""
        await asyncio.gather(*(part.close(grace) for part in self._channels))


def key_files(settings: ServiceSettings) -> tuple[bytes, bytes, bytes] | None:
    """CA certificate, private key and certificate for mutual TLS; None for plain text.

    Raises SettingsError if one cannot be read, or is none or encrypted, or key and certificate do not belong together.
    """
    if settings.grpc_ca is None or settings.grpc_key is None or settings.grpc_cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.grpc_ca)
        context.load_cert_chain(settings.grpc_cert, settings.grpc_key, partial(refuse_pass_phrase, "ASI_GRPC_KEY"))
        return settings.grpc_ca.read_bytes(), settings.grpc_key.read_bytes(), settings.grpc_cert.read_bytes()
    except OSError as error:  # of ssl, too
        raise SettingsError(f"ASI_GRPC_CA, ASI_GRPC_CERT or ASI_GRPC_KEY cannot be used: {error}.") from None


def is_transient(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same call may succeed later.

    Our servers report their own errors as INTERNAL. CANCELLED, UNKNOWN and a reset stream mean that the server ended
    during the call.
    """
    reset = error.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "")
    return reset or error.code().name in _TRANSIENT


class _CallDefaults(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds a default deadline and the current trace context to each call."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    async def intercept_unary_unary(
        self, continuation: Callable[..., Awaitable[Any]], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        carrier: dict[str, str] = {}
        telemetry.inject(carrier)
        call = client_call_details
        metadata = grpc.aio.Metadata(*(call.metadata or ()), *carrier.items())
        seconds = self._deadline if call.timeout is None else call.timeout
        details = grpc.aio.ClientCallDetails(call.method, seconds, metadata, call.credentials, call.wait_for_ready)
        return await continuation(details, request)


class _Guard(grpc.aio.ServerInterceptor):
    """Limits the time of each unary call and turns typed errors into status codes."""

    async def intercept_service(
        self, continuation: Callable[..., Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS):
            return handler
        parse, write = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary:
            call = _guarded(handler.unary_unary, parse, method.removeprefix(_OURS))
            return grpc.unary_unary_rpc_method_handler(call, None, write)
        return grpc.unary_stream_rpc_method_handler(_guarded_stream(handler.unary_stream, parse), None, write)


def _parsed(parse: Any, body: bytes) -> Any:
    """The request. gRPC itself would answer UNKNOWN, which callers repeat, and log a traceback."""
    try:
        return parse(body)
    except DecodeError as error:
        raise ValueError(f"the request cannot be read: {error}") from None


def _guarded(call: Callable[..., Any], parse: Any, name: str) -> Callable[..., Awaitable[Any]]:
    async def guarded(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        seconds = min(context.time_remaining() or DEADLINE_SECONDS, 3600.0)
        trace = {key: str(value) for key, value in context.invocation_metadata() or () if key in TRACE_HEADERS}
        span = telemetry.span(name, trace) if trace else nullcontext()  # other calls belong to no candidate
        async with _status_codes(context):
            with span:
                async with asyncio.timeout(seconds):
                    return await call(_parsed(parse, body), context)

    return guarded


def _guarded_stream(call: Any, parse: Any) -> Callable[..., AsyncIterator[Any]]:
    async def guarded(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        async with _status_codes(context):
            async for answer in call(_parsed(parse, body), context):
                yield answer

    return guarded


@asynccontextmanager
async def _status_codes(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except grpc.aio.AioRpcError as error:  # of a service that this one asked
        await context.abort(error.code(), error.details() or "")
    except Exception as error:  # noqa: BLE001 - errors become status codes
        if is_of_the_machine(error):  # another replica, or this one later, may answer
            get_logger().error("a call failed", error=str(error))
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        for kind, code in _STATUS:
            if isinstance(error, kind):
                await context.abort(code, str(error) or code.name)
        get_logger().error("a call failed", exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


def loopback_server(settings: ServiceSettings) -> Server:
    """A server on a free loopback port, in plain text, for the process on this machine that started it."""
    return Server(settings.model_copy(update={"listen": "127.0.0.1:0", "grpc_ca": None}))


async def serve_until_input_closes(server: Server, *names: str) -> None:
    """Start, print the port, and serve until standard input closes. `names` as of `Server.start`."""
    await server.start(*names)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
