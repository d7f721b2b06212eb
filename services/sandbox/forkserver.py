"""The fork server: a process that has imported torch and forks a confined child for each request in milliseconds.

    fork server ─fork─▶ supervisor ─(fork ─▶ first process of a pid namespace)─fork─▶ job

`Sandbox` starts it as `python -m services.sandbox.forkserver SETTINGS`; it never runs candidate code. It has no threads
and no CUDA context and has executed no operation of torch, so it can be forked safely.

The supervisor adopts orphaned processes of the job, kills them when the job ends, and reports the job's exit status to
the host over the control socket. In a pid namespace, its first process does this, and the kernel kills all others with
it.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from services.sandbox import linux
from services.sandbox.confinement import Confinement, detect
from services.sandbox.limits import JOB_RAISED, REFUSED, Limits
from services.sandbox.processes import children, descendants, kill, kill_descendants
from services.sandbox.wire import Channel, ChannelClosed

_REQUEST_BYTES = 1 << 16
_DESCRIPTORS = 8
_FOLDER_VARIABLES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def serve(connection: socket.socket, confinement: Confinement) -> None:
    """Fork a supervisor for each request until the host closes the connection."""
    wakeup_reader, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_reader, False)
    os.set_blocking(wakeup_writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    supervisors: set[int] = set()
    while True:
        ready, _, _ = select.select([connection.fileno(), wakeup_reader], [], [])
        if wakeup_reader in ready:
            os.read(wakeup_reader, 4096)
            _reap(supervisors)
        if connection.fileno() in ready and not _start_job(connection, confinement, supervisors):
            return


def _start_job(connection: socket.socket, confinement: Confinement, supervisors: set[int]) -> bool:
    """Start one job; False if the host has closed the connection."""
    request, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, _DESCRIPTORS)
    if not request:
        return False
    pid = os.fork()
    if pid == 0:
        _run_supervisor(json.loads(request), descriptors, connection, confinement)
    supervisors.add(pid)
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _run_supervisor(
    request: dict[str, Any], descriptors: list[int], connection: socket.socket, confinement: Confinement
) -> None:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.close()
        limits = Limits(**request["limits"])
        channel, control, log, *entries = descriptors
        scratch, user = Path(request["scratch"]), request["user"]
        _supervise(Request(request["job"], limits, scratch, user, channel, control, log, tuple(entries)), confinement)
    finally:
        os._exit(0)


def _reap(supervisors: set[int]) -> None:
    """Wait for ended processes, and kill orphans of a supervisor that was killed."""
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            supervisors.discard(pid)
    for orphan in set(children(os.getpid())) - supervisors:
        kill(orphan)


@dataclass(frozen=True)
class Request:
    """A request of the host: the job, its limits and scratch folder, and the descriptors received."""

    job: str
    limits: Limits
    scratch: Path
    user: int
    channel: int
    control: int
    log: int
    entries: tuple[int, ...]  # files of the job's control groups; writing "0" to one enters the group


def _supervise(request: Request, confinement: Confinement) -> None:
    """Run the job to its end and report its exit status; the body of the supervisor process."""
    _die_with_parent()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    os.setsid()
    Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, jobs are killed first
    control = socket.socket(fileno=request.control)
    if not _report(control, "started"):
        return
    try:
        separated = confinement.enter_namespaces()
    except OSError as error:
        _report(control, "refused", reason=str(error))
        return
    if separated and (first := os.fork()):
        os.close(request.channel)
        os.close(request.log)
        os.waitpid(first, 0)
        return
    _run_and_report(request, confinement, control)


def _run_and_report(request: Request, confinement: Confinement, control: socket.socket) -> None:
    _die_with_parent()
    try:
        confinement.build_root(request.scratch, request.limits, request.user)
    except OSError as error:
        _report(control, "refused", reason=str(error))
        return
    job = os.fork()
    if job == 0:
        control.close()
        _run_job(request, confinement)
    os.close(request.channel)
    os.close(request.log)
    pid, status = os.wait()
    while pid != job:
        pid, status = os.wait()
    kill_descendants(_adopted)
    _report(control, "ended", status=os.waitstatus_to_exitcode(status))


def _adopted() -> list[int]:
    while True:  # reap ended processes, which would otherwise stay listed
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            return []
    return descendants(os.getpid())


def _run_job(request: Request, confinement: Confinement) -> None:
    """Set up descriptors, environment and confinement, then call the job's function. Never returns."""
    code = JOB_RAISED
    try:
        _die_with_parent()
        for entry in request.entries:
            os.write(entry, b"0")  # enters the job's control groups
        _set_up_environment(request)
        module, _, name = request.job.partition(":")
        function = getattr(import_module(module), name)  # before Landlock hides the folder of our packages
        confinement.confine(request.scratch, request.limits, request.user)
        os.chdir(request.scratch)
    except BaseException:  # noqa: BLE001 -- the job must not start after any error
        traceback.print_exc()
        os._exit(REFUSED)
    try:
        function(Channel(request.channel))
        code = 0
    except ChannelClosed:
        code = 0
    except BaseException:  # noqa: BLE001 -- the process ends with the job
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _set_up_environment(request: Request) -> None:
    """Redirect stdin from /dev/null, stdout and stderr to the log, and home and temporary folders to scratch."""
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (request.log, 1), (request.log, 2)):
        os.dup2(source, target)
    os.closerange(3, request.channel)
    os.closerange(request.channel + 1, 1 << 12)
    os.environ.update({name: str(request.scratch) for name in _FOLDER_VARIABLES})
    tempfile.tempdir = None  # the server's cached value
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends; exit if it has already ended."""
    parent = os.getppid()
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(REFUSED)


def _report(control: socket.socket, event: str, **facts: str | int) -> bool:
    """Send a report to the host, and return whether it still receives some."""
    try:
        control.send(json.dumps({"event": event, **facts}).encode())
    except OSError:
        return False
    return True


def _try_layers(layers: frozenset[str], readable: tuple[str, ...], root: Path) -> int:
    """A pipe from a process that tests the layers concurrently and writes their names as JSON."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            _die_with_parent()
            os.write(writer, json.dumps(sorted(detect(layers, readable, root).layers)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    return reader


def main() -> None:
    """Import the modules, report the layers that work, and serve."""
    settings = json.loads(sys.argv[1])
    _die_with_parent()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    connection = socket.socket(fileno=settings["connection"])
    trials = _try_layers(frozenset(settings["layers"]), tuple(settings["readable"]), Path(settings["root"]))
    gc.disable()  # saves a tenth of the time of importing torch
    for module in settings["preload"]:
        import_module(module)
    if torch := sys.modules.get("torch"):
        torch.backends.cpu.get_cpu_capability()  # detect AVX now, since jobs cannot open files
    gc.enable()
    gc.freeze()  # avoids writes to pages shared with the children
    with os.fdopen(trials) as names:
        confinement = Confinement(frozenset(json.load(names)), tuple(settings["readable"]))
    os.wait()
    connection.send(json.dumps({"layers": sorted(confinement.layers)}).encode())
    serve(connection, confinement)


if __name__ == "__main__":
    main()
