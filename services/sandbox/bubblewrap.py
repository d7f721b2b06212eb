"""The fork server inside bubblewrap: no network, processes of its own, a read-only root of only what is needed."""

import subprocess
from pathlib import Path

_TRIAL_SECONDS = 10


def command(program: str, readable: tuple[str, ...], root: Path) -> list[str]:
    """The beginning of the command line. `root`, the folder of the scratch folders, is the only place to write."""
    binds = [word for place in readable for word in ("--ro-bind", place, place)]
    devices = [word for place in graphics() for word in ("--dev-bind", place, place)]
    system = ["--ro-bind-try", "/sys", "/sys"] if devices else []
    apart = ["--unshare-user-try", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    return [program, *apart, "--die-with-parent", *binds, "--proc", "/proc", "--dev", "/dev", *devices, *system,
            "--bind", str(root), str(root), "--"]  # fmt: skip


def works(wrap: list[str]) -> bool:
    """Whether this machine lets bubblewrap do what the command line asks."""
    try:
        return subprocess.run([*wrap, "/bin/true"], capture_output=True, timeout=_TRIAL_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def graphics() -> list[str]:
    """The device files of NVIDIA's driver, empty where there are none."""
    return sorted(str(place) for place in Path("/dev").glob("nvidia*"))
