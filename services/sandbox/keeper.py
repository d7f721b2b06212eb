"""From a request to a running job: the processes between the fork server and the code that is confined.

    fork server ─fork─▶ keeper ─(fork ─▶ first process of a pid namespace)─fork─▶ job

The keeper adopts whatever the job leaves behind, so that it can end all of it, and tells the engineer over the control
socket what became of the job. With a pid namespace its first process does this, and its end takes everything along.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from services.sandbox import linux
from services.sandbox.channel import Channel, ChannelClosed
from services.sandbox.confinement import Confinement
from services.sandbox.limits import Limits
from services.sandbox.processes import descendants, kill_descendants

JOB_RAISED = 70
REFUSED = 71

_PLACES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@dataclass(frozen=True)
class Order:
    """One request of the engineer: which job, within what, and the descriptors that came with it."""

    job: str
    limits: Limits
    scratch: Path
    user: int
    channel: int
    control: int
    log: int


def keep(order: Order, confinement: Confinement) -> None:
    """Run the job to its end and report it; the body of the keeper process."""
    die_with_parent()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    os.setsid()
    Path("/proc/self/oom_score_adj").write_text("1000")  # should memory run out, jobs go first
    control = socket.socket(fileno=order.control)
    report(control, "started")
    try:
        separated = confinement.separate()
    except OSError as error:
        report(control, "refused", reason=str(error))
        return
    if separated and (first := os.fork()):
        os.close(order.channel)
        os.close(order.log)
        os.waitpid(first, 0)
        return
    _run_and_report(order, confinement, control)


def _run_and_report(order: Order, confinement: Confinement, control: socket.socket) -> None:
    die_with_parent()
    try:
        confinement.furnish(order.scratch, order.limits)
    except OSError as error:
        report(control, "refused", reason=str(error))
        return
    job = os.fork()
    if job == 0:
        control.close()
        _become_job(order, confinement)
    os.close(order.channel)
    os.close(order.log)
    status = _await(job)
    kill_descendants(_adopted)
    report(control, "ended", status=os.waitstatus_to_exitcode(status))


def _adopted() -> list[int]:
    while True:  # the ended ones would otherwise stay listed
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            return []
    return descendants(os.getpid())


def _await(job: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == job:
            return status


def _become_job(order: Order, confinement: Confinement) -> None:
    """Take the place of the job: descriptors, surroundings, confinement, then the function. Never returns."""
    code = JOB_RAISED
    try:
        die_with_parent()
        _arrange(order)
        function = _function(order.job)  # before Landlock hides the folder in which our packages lie
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
        _flush()
        os._exit(code)


def _function(job: str) -> Callable[[Channel], None]:
    module, _, name = job.partition(":")
    function: Callable[[Channel], None] = getattr(import_module(module), name)
    return function


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue


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


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; a parent that is gone already counts."""
    parent = os.getppid()
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(REFUSED)


def report(control: socket.socket, event: str, **facts: str | int) -> None:
    """Tell the engineer; one that has gone is no error."""
    try:
        control.send(json.dumps({"event": event, **facts}).encode())
    except OSError:
        return
