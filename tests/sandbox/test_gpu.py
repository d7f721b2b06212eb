"""What starting CUDA in a job needs of the sandbox, as far as it can be tried without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CONTAINER = """
set -e
mount -t tmpfs none /proc/irq  # masked
mount -t tmpfs none "$2"
for device in null zero full random urandom; do touch "$2/$device"; mount --bind "/dev/$device" "$2/$device"; done
mkdir "$2/shm"
touch "$2/nvidia0"
mount --rbind "$2" /dev
exec unshare --user --map-root-user --mount "$1" -c "$3" "$4"
"""
DETECT = """
import sys
from pathlib import Path
from services.sandbox.confinement import NAMESPACES, detect
from services.sandbox.server import _readable_paths
print(sorted(detect(frozenset({NAMESPACES}), _readable_paths(), Path(sys.argv[1])).layers))
"""
IMPORT = """
import importlib, sys, torch
started = []
for name in ("device_count", "init", "is_available", "_lazy_init"):
    setattr(torch.cuda, name, lambda *_, name=name: started.append(name) or 0)
from services.sandbox.host import PRELOAD
for module in PRELOAD:
    importlib.import_module(module)
print(started + sorted(name for name in sys.modules if name.partition(".")[0] == "fla"))
"""


def test_a_container_that_masks_proc_gets_no_namespaces_if_it_has_a_gpu(tmp_path: Path) -> None:
    """The kernel mounts no other /proc there, without which CUDA does not start. Podman allows such namespaces."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "root" / "root").mkdir(parents=True)
    container = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*container, "mount", "-t", "tmpfs", "none", "/proc/irq"], capture_output=True).returncode:
        # Masks are locked in a user namespace only: without any, root may mount another /proc, and has namespaces.
        pytest.skip("this machine allows no user namespaces: it cannot be made to look like a rootless container")
    command = [*container, "sh", "-c", CONTAINER, "sh", sys.executable, f"{tmp_path}/dev", DETECT, f"{tmp_path}/root"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"


def test_the_fork_server_does_not_start_cuda() -> None:
    """No process that it forks could use a GPU. fla asks for the GPU when it is imported, so only jobs import it."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )

    assert done.stdout.strip() == "[]"
