"""What a child may see of the machine: the environment it gets and the places it may read."""

import os
import sys
import sysconfig
from pathlib import Path

import services

_INSTRUCTIONS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
"""What limits the processor's instructions: with it an older machine is tried out on a newer one."""
_PASSED = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "TZ", *_INSTRUCTIONS)
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "alternatives", "passwd", "group", "nsswitch.conf")

# A training frees and allocates the same large tensors at every step. By default glibc gives them back to the kernel
# and faults them in again page by page, which costs a tenth of the time in a process forked from a large one.
_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296"


def environment(scratch: Path) -> dict[str, str]:
    """A new environment: nothing of ours but where libraries and devices are, one thread, no network libraries' hub."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    fixed = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(str(Path(place).resolve().parent) for place in services.__path__),
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLIBC_TUNABLES": _MALLOC,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    return {**passed, **fixed}


def readable_places(extra: tuple[Path, ...] = ()) -> tuple[str, ...]:
    """Files and folders that a child may read: the system's programs, Python's, our own code, and `extra`.

    Our own code means the packages, not the checkout around them, in which a secret or a run's data may lie; for the
    same reason the search path of modules is not taken as it is. Of a link, what it leads to is there as well.
    """
    packages = [Path(place) for place in services.__path__]
    paths = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    prefixes = [Path(place) for place in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    system = [Path(place) for place in _SYSTEM] + [Path("/etc") / name for name in _ETC]
    wanted = [*system, *prefixes, *paths, *packages, *extra]
    found = [place for place in wanted if place.exists()]
    return tuple(sorted({str(path) for place in found for path in (place.absolute(), place.resolve())}))
