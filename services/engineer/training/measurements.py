"""Measurements of a training by the host; only FLOPs are reported by the child."""

import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np

from services.chassis.errors import Transient
from services.engineer.scales import Scale
from services.engineer.training.result import Measurements
from services.engineer.training.session import Session
from services.engineer.training.sizes import INITIALISATION
from services.sandbox import Array

MARGIN = 2.0
"""Safety factor on the measured speed of the processor, which depends on other work."""
_PACKAGES = ("torch", "numpy", "flash-linear-attention", "fla-core", "triton", "einops", "lm_eval")


def versions() -> Mapping[str, str]:
    """Versions of Python and of installed packages that influence results."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def has_gpu() -> bool:
    """Whether torch can use a GPU. Does not start CUDA in this process, which takes memory on the GPU."""
    import torch  # takes two seconds, which engineers without a GPU need not spend

    return torch.cuda.is_available()


def missing_device(scale: Scale) -> str | None:
    """Why no training of the scale is possible here; None if one is. It is the machine's fault, not a program's."""
    if scale.device != "cuda" or has_gpu():
        return None
    return f"scale {scale.name} trains on a GPU, and torch finds none here: use a machine with one, or set device=cpu"


def require_device(scale: Scale) -> None:
    """Raises Transient on a machine without the scale's device, so that work goes to another one."""
    if missing := missing_device(scale):
        raise Transient(missing)


def device_name(device: str) -> str:
    """The model name of the GPU or of the processor; empty for a GPU on a machine without one."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name() if has_gpu() else ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def joules_of(device: str, since: float | None = 0.0) -> float | None:
    """The energy of the GPU since an earlier value, by default since its driver was loaded; None if unknown.

    Includes other work on it. From NVML (package nvidia-ml-py), which ignores CUDA_VISIBLE_DEVICES and numbers GPUs in
    another order than CUDA.
    """
    if device != "cuda" or since is None:
        return None
    import torch

    try:
        import pynvml  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000 - since
    except pynvml.NVMLError:
        return None


def measurements_of(
    session: Session, parameters: int, isolation: str, joules: float | None, seconds: float
) -> Measurements:
    """The measurements of a trained session; `parameters` is the host's count."""
    scale, history = session.job.scale, session.history
    peaks = [m.peak_memory_bytes for m in history if m.peak_memory_bytes is not None]
    return Measurements(
        parameters=parameters,
        flops_per_token=_plausible_flops(session),
        tokens_per_second=median(m.tokens_per_second for m in history) if history else None,
        peak_memory_bytes=max(peaks) if peaks else None,
        energy_joules=joules,
        seconds=seconds,
        device=scale.device,
        device_name=device_name(scale.device),
        versions=versions(),
        data_fingerprint=session.job.corpus.fingerprint,
        initialisation=INITIALISATION,
        precision=scale.precision,
        isolation=isolation,
        tokens=session.step * scale.tokens_per_step,
        compiled=session.compiled,
        auxiliary_loss=session.auxiliary_loss,
    )


def _plausible_flops(session: Session) -> float | None:
    """The child's count, or None if it exceeds what the CPU time allows.

    A count that is far too low is unlikely, as the watcher stops programs that are much slower than their peers.
    """
    busy = [m.busy_per_step for m in session.history if m.busy_per_step is not None]
    if session.flops_per_token is None or not busy:
        return session.flops_per_token
    scale = session.job.scale
    seconds = median(busy) * scale.threads / scale.tokens_per_step
    return session.flops_per_token if session.flops_per_token <= MARGIN * seconds * _peak_flops() else None


@cache
def _peak_flops() -> float:
    """Operations per second of CPU time of a large matrix product, which no training exceeds."""
    size, best = 512, float("inf")
    matrix = np.ones((size, size), np.float32)
    for _ in range(5):
        start = process_time()
        np.matmul(matrix, matrix)
        best = min(best, process_time() - start)
    return 2 * size**3 / max(best, 1e-6)


def trained_elements(named: tuple[str, ...], first: Mapping[str, Array], last: Mapping[str, Array]) -> int:
    """The number of trained values of a model: its parameters, and buffers that changed, except single numbers.

    An element of eight bytes counts as two, since a program may keep two values in one.
    """
    parameters = {f"model/{name}" for name in named}
    return sum(
        int(array.size) * max(1, array.itemsize // 4)
        for name, array in last.items()
        if name in parameters
        or (
            array.size > 1
            and (name not in first or not np.array_equal(first[name], array, equal_nan=array.dtype.kind == "f"))
        )
    )
