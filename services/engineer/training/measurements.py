"""What a training cost, and on what: all of it seen from outside the child but for the FLOPs."""

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import process_time
from types import TracebackType

import numpy as np
import torch

from services.engineer.training.model import INITIALISATION
from services.engineer.training.ports import Array
from services.engineer.training.result import Measurements
from services.engineer.training.session import Session

MARGIN = 2.0
"""On the measured speed of the processor, which other work on its cores changes."""
_PACKAGES = ("torch", "numpy", "flash-linear-attention", "fla-core", "triton", "einops", "lm_eval")


def versions() -> Mapping[str, str]:
    """Versions of Python and of those packages that are installed and can change a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> str:
    """The model name of the GPU or of the processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class EnergyMeter:
    """Joules of the first GPU between entering and leaving; `joules` stays None without a device that counts them.

    The counter is the whole device's: work that others do on it at the same time is included.
    """

    def __init__(self, device: str) -> None:
        self._measures = device == "cuda"
        self._start: float | None = None
        self.joules: float | None = None

    def __enter__(self) -> "EnergyMeter":
        self._start = _counter() if self._measures else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = _counter() if self._start is not None else None
        self.joules = end - self._start if end is not None and self._start is not None else None


def _counter() -> float | None:
    """Joules since the driver was loaded, through NVML (package nvidia-ml-py), or None."""
    try:
        import pynvml  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))) / 1000
    except pynvml.NVMLError:
        return None


def measurements_of(
    session: Session, parameters: int, isolation: str, joules: float | None, seconds: float
) -> Measurements:
    """Speed, memory, device, versions and parameters are the host's; FLOPs the child's count where time backs it."""
    scale, history = session.job.scale, session.history
    peaks = [m.peak_memory_bytes for m in history if m.peak_memory_bytes is not None]
    return Measurements(
        parameters=parameters,
        flops_per_token=_backed_flops(session),
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


def _backed_flops(session: Session) -> float | None:
    """The child's count, which is at least that without mixers; None where more are told than the time allows.

    Fewer than there are cannot be told far below what time shows either: the watcher stops what is several times slower
    than its peers.
    """
    busy = [m.busy_per_step for m in session.history if m.busy_per_step is not None]
    if session.flops_per_token is None or not busy:
        return session.flops_per_token
    scale = session.job.scale
    seconds = median(busy) * scale.threads / scale.tokens_per_step
    return session.flops_per_token if session.flops_per_token <= MARGIN * seconds * _peak_flops() else None


@cache
def _peak_flops() -> float:
    """Operations per second of processor time of a large matrix product here: more than any training reaches."""
    size, best = 512, float("inf")
    matrix = torch.ones(size, size)
    for _ in range(5):
        began = process_time()
        torch.mm(matrix, matrix)
        best = min(best, process_time() - began)
    return 2 * size**3 / max(best, 1e-6)


def trained_elements(named: tuple[str, ...], first: Mapping[str, Array], last: Mapping[str, Array]) -> int:
    """Numbers that a model has learnt: its parameters, and whatever else is not what it was at first.

    What is called a buffer and changes like a parameter counts as one, but for single numbers such as counters.
    """
    parameters = {f"model/{name}" for name in named}
    return sum(
        int(array.size)
        for name, array in last.items()
        if name in parameters or (array.size > 1 and not _same(first.get(name), array))
    )


def _same(left: Array | None, right: Array) -> bool:
    return left is not None and np.array_equal(left, right, equal_nan=right.dtype.kind == "f")
