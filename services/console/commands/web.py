"""`asi-arch web`: the live page."""

import asyncio
import errno
from typing import Annotated

import typer

from services.chassis.errors import NotPossible
from services.console.local.processes import free_port
from services.console.settings import console_settings
from services.console.web.server import serve


def web(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on this machine; 0 takes a free one")] = 8070,
    host: Annotated[
        str, typer.Option(help="address to listen on; the page is read-only and has no login")
    ] = "127.0.0.1",
) -> None:
    """The live page: tree, leaderboard, candidates, progress. Ctrl-C ends it."""
    try:
        asyncio.run(serve(console_settings(), host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        other = free_port(range(port + 1, min(port + 100, 65535)))
        raise NotPossible(f"port {port} of {host} is in use: try `asi-arch web --port {other}`") from None
