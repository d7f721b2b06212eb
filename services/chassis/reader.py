"""A service that only answers: no bus, no work, one free port of this machine, until its standard input closes."""

import asyncio
import sys

from services.chassis.rpc import Server
from services.chassis.settings import ServiceSettings


def reading(settings: ServiceSettings) -> Server:
    """A server on a free loopback port, in plain text: whoever started the reader is on this machine."""
    return Server(settings.model_copy(update={"listen": "127.0.0.1:0", "grpc_ca": None}))


async def answer(server: Server, *names: str) -> None:
    """Start, print the port, and serve until standard input closes. `names` as of `Server.start`."""
    await server.start(*names)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
