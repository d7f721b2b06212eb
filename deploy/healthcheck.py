"""Exit status 0 while the service of this container answers SERVING through gRPC health."""

import asyncio
import os
import sys

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.rpc import channel
from services.chassis.settings import Address, ServiceSettings

TLS = ("grpc_ca", "grpc_cert", "grpc_key")


async def serving() -> bool:
    """Ask this container's own server, with its certificates where it has some."""
    given = {name: value for name in TLS if (value := os.environ.get(f"ASI_{name.upper()}"))}
    settings = ServiceSettings.model_validate(given)
    port = Address.parse(os.environ["ASI_LISTEN"]).port
    async with channel(f"localhost:{port}", settings) as connection:
        check = health_pb2_grpc.HealthStub(connection).Check  # type: ignore[attr-defined]
        answer = await check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=False)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    try:
        sys.exit(0 if asyncio.run(serving()) else 1)
    except grpc.aio.AioRpcError as error:
        sys.exit(f"no answer: {error.details()}")
