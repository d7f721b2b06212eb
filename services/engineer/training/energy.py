"""Energy of the GPU, where it tells."""

from types import TracebackType


class EnergyMeter:
    """Joules of the first GPU between entering and leaving; `joules` stays None without a device that counts them.

    The counter is the whole device's: work that others do on it at the same time is included.
    """

    def __init__(self, device: str) -> None:
        self._wanted = device == "cuda"
        self._start: float | None = None
        self.joules: float | None = None

    def __enter__(self) -> "EnergyMeter":
        self._start = _counter() if self._wanted else None
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
