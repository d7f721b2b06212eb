"""Which layers hold a job, and how they are put around it, one after another."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from services.sandbox import landlock, linux, namespaces, privileges, seccomp
from services.sandbox.layers import FIRST_USER, LANDLOCK, NAMESPACES, SECCOMP, USER
from services.sandbox.limits import Limits

_TRIAL_LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=10, wall_seconds=10)


@dataclass(frozen=True)
class Confinement:
    """The layers in force and the files and folders that a job may read.

    Each layer is tried before it is promised; one that then fails for a job is an error, never left out silently.
    """

    layers: frozenset[str] = frozenset()
    readable: tuple[str, ...] = ()

    def separate(self) -> bool:
        """Enter new namespaces; True if the next fork begins a pid namespace. Raises OSError."""
        if NAMESPACES not in self.layers:
            return False
        namespaces.enter()
        return True

    def furnish(self, scratch: Path, limits: Limits) -> None:
        """Build the file system of the new mount namespace. Raises OSError."""
        if NAMESPACES in self.layers:
            namespaces.furnish(scratch, self.readable, limits.subprocesses, limits.memory_bytes)

    def confine(self, scratch: Path, limits: Limits, user: int) -> None:
        """Put the remaining layers around this process, for good. Raises OSError."""
        apart = NAMESPACES in self.layers
        privileges.limit_resources(limits, counts_processes=USER in self.layers)
        if USER in self.layers:
            privileges.become(user)
        else:
            privileges.drop_capabilities()
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        if LANDLOCK in self.layers:
            landlock.restrict(scratch, self.readable, limits.subprocesses, own_proc_only=not apart)
        if SECCOMP in self.layers:
            seccomp.install(limits.subprocesses, own_network=apart)


def detect(wanted: frozenset[str], readable: tuple[str, ...], root: Path) -> Confinement:
    """The strongest confinement out of the wanted layers that works on this machine, found by trying each."""
    best = Confinement(readable=readable)
    for layer in (NAMESPACES, USER, LANDLOCK, SECCOMP):
        candidate = replace(best, layers=best.layers | {layer})
        if layer in wanted and _holds(candidate, root):
            best = candidate
    return best


def _holds(candidate: Confinement, root: Path) -> bool:
    """Whether a child so confined can still read our code and write its scratch folder."""
    scratch = Path(tempfile.mkdtemp(prefix="trial-", dir=root))
    try:
        if USER in candidate.layers:
            os.chown(scratch, FIRST_USER, FIRST_USER)
        return _in_child(lambda: _trial(candidate, scratch)) == 0
    except OSError:
        return False
    finally:
        shutil.rmtree(scratch)


def _trial(candidate: Confinement, scratch: Path) -> int:
    if candidate.separate():
        return _in_child(lambda: _confined(candidate, scratch))
    return _confined(candidate, scratch)


def _confined(candidate: Confinement, scratch: Path) -> int:
    candidate.furnish(scratch, _TRIAL_LIMITS)
    return _in_child(lambda: _work(candidate, scratch))


def _work(candidate: Confinement, scratch: Path) -> int:
    candidate.confine(scratch, _TRIAL_LIMITS, FIRST_USER)
    for place in (__file__, os.__file__, "/dev/null"):
        Path(place).open("rb").close()
    (scratch / "written").write_text("yes")
    return 0


def _in_child(body: Callable[[], int]) -> int:
    """Exit code of `body` run in a fork; 1 if the machine refuses something."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = body()
        except OSError as error:
            os.write(2, f"not available here: {error}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
