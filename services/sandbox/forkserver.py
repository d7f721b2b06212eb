"""The warm fork server: a process that has imported torch and forks a confined child per request in milliseconds.

Started by `Sandbox` as `python -m services.sandbox.forkserver SETTINGS`; no code of strangers ever runs in it.
It has run no operation of torch, holds no thread and no CUDA context, so that a fork of it is whole.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

from services.sandbox import keeper, linux
from services.sandbox.confinement import Confinement, detect
from services.sandbox.limits import Limits
from services.sandbox.processes import children, kill

_REQUEST_BYTES = 1 << 16
_DESCRIPTORS = 3


def serve(line: socket.socket, confinement: Confinement) -> None:
    """Fork a keeper for each request until the engineer hangs up."""
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    keepers: set[int] = set()
    while True:
        ready, _, _ = select.select([line.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(keepers)
        if line.fileno() in ready and not _answer(line, confinement, keepers):
            return


def _answer(line: socket.socket, confinement: Confinement, keepers: set[int]) -> bool:
    """Start one job; False when the engineer has hung up."""
    request, descriptors, _, _ = socket.recv_fds(line, _REQUEST_BYTES, _DESCRIPTORS)
    if not request:
        return False
    pid = os.fork()
    if pid == 0:
        _become_keeper(json.loads(request), descriptors, line, confinement)
    keepers.add(pid)
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _become_keeper(
    request: dict[str, str], descriptors: list[int], line: socket.socket, confinement: Confinement
) -> None:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        line.close()
        keeper.keep(_order(request, *descriptors), confinement)
    finally:
        os._exit(0)


def _order(request: dict[str, str], channel: int, control: int, log: int) -> keeper.Order:
    limits = Limits(**json.loads(request["limits"]))
    return keeper.Order(request["job"], limits, Path(request["scratch"]), int(request["user"]), channel, control, log)


def _reap(keepers: set[int]) -> None:
    """Await what has ended, and kill what a keeper that was itself killed has left to us."""
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            keepers.discard(pid)
    for stray in set(children(os.getpid())) - keepers:
        kill(stray)


def main() -> None:
    """Warm up, say which layers hold, and serve."""
    settings = json.loads(sys.argv[1])
    keeper.die_with_parent()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    line = socket.socket(fileno=settings["line"])
    for module in settings["preload"]:
        import_module(module)
    wanted, readable = frozenset(settings["layers"]), tuple(settings["readable"])
    confinement = detect(wanted, readable, Path(settings["root"]))
    gc.collect()
    gc.freeze()  # the children share these pages for as long as nobody counts references in them
    line.send(json.dumps({"layers": sorted(confinement.layers)}).encode())
    serve(line, confinement)


if __name__ == "__main__":
    main()
