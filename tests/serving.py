"""gRPC servers of what a test wants to be answered by."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from services.chassis.rpc import Server
from services.chassis.settings import ServiceSettings


@asynccontextmanager
async def serving(*services: tuple[Callable[[Any, Any], None], object], port: int = 0) -> AsyncIterator[str]:
    """The address of a server of these services, each with the function that adds it."""
    server = Server(ServiceSettings(listen=f"127.0.0.1:{port}"))
    for add, service in services:
        add(service, server.grpc)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)
