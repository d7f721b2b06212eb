"""Exits with status 0 if the service of this container answers SERVING by gRPC health.

It runs every few seconds in every container, so it imports only grpc.
"""

import os
import sys
from pathlib import Path

import grpc

SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}, as it is on the wire
TIMEOUT_SECONDS = 10


def serving() -> bool:
    """Query this container's server, with certificates if there are any."""
    port = os.environ["ASI_LISTEN"].rpartition(":")[2]
    paths = {name: os.environ.get(f"ASI_GRPC_{name}") for name in ("CA", "KEY", "CERT")}
    if paths["CA"]:
        parts = {name: Path(path).read_bytes() if path else None for name, path in paths.items()}
        secrets = grpc.ssl_channel_credentials(parts["CA"], parts["KEY"], parts["CERT"])
        channel = grpc.secure_channel(f"localhost:{port}", secrets)
    else:
        channel = grpc.insecure_channel(f"localhost:{port}")
    with channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        return check(b"", timeout=TIMEOUT_SECONDS) == SERVING


if __name__ == "__main__":
    try:
        sys.exit(0 if serving() else 1)
    except grpc.RpcError as error:
        sys.exit(f"no answer: {error.details()}")
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set: give it the value that the service has")
