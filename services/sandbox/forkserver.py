"""The warm fork server: a process that has imported torch and forks a confined child per request in milliseconds.

    fork server ─fork─▶ keeper ─(fork ─▶ first process of a pid namespace)─fork─▶ job

Started by `Sandbox` as `python -m services.sandbox.forkserver SETTINGS`; no code of strangers ever runs in it. It has
run no operation of torch, holds no thread and no CUDA context, so that a fork of it is whole.

The keeper adopts whatever the job leaves behind, so that it can end all of it, and tells the engineer over the control
socket what became of the job. With a pid namespace its first process does this, and its end takes everything along.
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
_PLACES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


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
    request: dict[str, Any], descriptors: list[int], line: socket.socket, confinement: Confinement
) -> None:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        line.close()
        limits = Limits(**request["limits"])
        channel, control, log, *doors = descriptors
        scratch, user = Path(request["scratch"]), request["user"]
        _keep(Order(request["job"], limits, scratch, user, channel, control, log, tuple(doors)), confinement)
    finally:
        os._exit(0)


def _reap(keepers: set[int]) -> None:
    """Await what has ended, and kill what a keeper that was itself killed has left to us."""
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            keepers.discard(pid)
    for stray in set(children(os.getpid())) - keepers:
        kill(stray)


@dataclass(frozen=True)
class Order:
    """One request of the engineer: which job, within what, and the descriptors that came with it.

    Attributes:
        doors: the files of the job's control groups; writing "0" to one enters the group.
    """

    job: str
    limits: Limits
    scratch: Path
    user: int
    channel: int
    control: int
    log: int
    doors: tuple[int, ...]


def _keep(order: Order, confinement: Confinement) -> None:
    """Run the job to its end and report it; the body of the keeper process."""
    _die_with_parent()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    os.setsid()
    Path("/proc/self/oom_score_adj").write_text("1000")  # should memory run out, jobs go first
    control = socket.socket(fileno=order.control)
    _report(control, "started")
    try:
        separated = confinement.separate()
    except OSError as error:
        _report(control, "refused", reason=str(error))
        return
    if separated and (first := os.fork()):
        os.close(order.channel)
        os.close(order.log)
        os.waitpid(first, 0)
        return
    _run_and_report(order, confinement, control)


def _run_and_report(order: Order, confinement: Confinement, control: socket.socket) -> None:
    _die_with_parent()
    try:
        confinement.furnish(order.scratch, order.limits, order.user)
    except OSError as error:
        _report(control, "refused", reason=str(error))
        return
    job = os.fork()
    if job == 0:
        control.close()
        _become_job(order, confinement)
    os.close(order.channel)
    os.close(order.log)
    pid, status = os.wait()
    while pid != job:
        pid, status = os.wait()
    kill_descendants(_adopted)
    _report(control, "ended", status=os.waitstatus_to_exitcode(status))


def _adopted() -> list[int]:
    while True:  # the ended ones would otherwise stay listed
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            return []
    return descendants(os.getpid())


def _become_job(order: Order, confinement: Confinement) -> None:
    """Take the place of the job: descriptors, surroundings, confinement, then the function. Never returns."""
    code = JOB_RAISED
    try:
        _die_with_parent()
        for door in order.doors:
            os.write(door, b"0")  # into the job's control groups
        _arrange(order)
        module, _, name = order.job.partition(":")
        function = getattr(import_module(module), name)  # before Landlock hides the folder in which our packages lie
        confinement.confine(order.scratch, order.limits, order.user)
        os.chdir(order.scratch)
    except BaseException:  # noqa: BLE001 -- whatever it is, the job must not begin
        traceback.print_exc()
        os._exit(REFUSED)
    try:
        function(Channel(order.channel))
        code = 0
    except ChannelClosed:
        code = 0
    except BaseException:  # noqa: BLE001 -- the job's end is the end of the process, whatever it raised
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _arrange(order: Order) -> None:
    """Nothing on stdin, the log on stdout and stderr, home and working directory in the scratch folder."""
    nothing = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((nothing, 0), (order.log, 1), (order.log, 2)):
        os.dup2(source, target)
    os.closerange(3, order.channel)
    os.closerange(order.channel + 1, 1 << 12)
    os.environ.update({name: str(order.scratch) for name in _PLACES})
    tempfile.tempdir = None  # the server's own choice would be remembered
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; a parent that is gone already counts."""
    parent = os.getppid()
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(REFUSED)


def _report(control: socket.socket, event: str, **facts: str | int) -> None:
    """Tell the engineer; one that has gone is no error."""
    try:
        control.send(json.dumps({"event": event, **facts}).encode())
    except OSError:
        return


def _choose_kernels() -> None:
    """Let torch look at the processor now: in a job that opens no file it would take its kernels without AVX."""
    if torch := sys.modules.get("torch"):
        torch.backends.cpu.get_cpu_capability()


def _try_layers(layers: frozenset[str], readable: tuple[str, ...], root: Path) -> int:
    """A pipe from a process that tries the layers while this one imports: their names come as JSON."""
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
    """Warm up, say which layers hold, and serve."""
    settings = json.loads(sys.argv[1])
    _die_with_parent()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    line = socket.socket(fileno=settings["line"])
    trials = _try_layers(frozenset(settings["layers"]), tuple(settings["readable"]), Path(settings["root"]))
    gc.disable()  # a tenth of the time of importing torch goes into looking for garbage that is not there
    for module in settings["preload"]:
        import_module(module)
    _choose_kernels()
    gc.enable()
    gc.freeze()  # the children share these pages for as long as nobody counts references in them
    with os.fdopen(trials) as names:
        confinement = Confinement(frozenset(json.load(names)), tuple(settings["readable"]))
    os.wait()
    line.send(json.dumps({"layers": sorted(confinement.layers)}).encode())
    serve(line, confinement)


if __name__ == "__main__":
    main()
