"""Which precision fits this machine: `precision = "auto"` of a scale, decided by a measurement.

bfloat16 is fast only where the processor has instructions for it (AVX-512 BF16, AMX, the bf16 extension of Arm v8.6).
Elsewhere it is emulated, up to forty times slower than float32, so the answer comes from timing, not from a list.
"""

from dataclasses import dataclass, replace
from time import process_time
from typing import cast

import torch
from torch import nn

from services.engineer.scales import Scale
from services.engineer.training.dialogue import ask, number
from services.engineer.training.model import AUTO, BF16, FP32, autocast
from services.engineer.training.ports import JSON, Channel, Sandbox
from services.engineer.training.result import TrainingFailed
from services.sandbox.limits import Limits, SandboxUnavailable

GUEST = "services.engineer.precision:run"
TOLERATED = 1.5
"""How much slower than float32 a machine may be in bf16 before its engineer says that the run does not fit it."""
_ROWS, _WIDTH, _INNER = 2048, 128, 256
_REPEATS = 5
_SECONDS = 60.0


@dataclass(frozen=True)
class PrecisionSpeed:
    """CPU seconds of one projection, forward and backward, in either precision. None: not available on the device."""

    fp32_seconds: float
    bf16_seconds: float | None

    @property
    def best(self) -> str:
        """The precision to train in."""
        faster = self.bf16_seconds is not None and self.bf16_seconds < self.fp32_seconds
        return BF16 if faster else FP32

    def slow(self, precision: str) -> str | None:
        """A sentence where `precision` costs this machine far more than float32 would; else None."""
        if precision != BF16 or (self.bf16_seconds or float("inf")) <= TOLERATED * self.fp32_seconds:
            return None
        times = "" if self.bf16_seconds is None else f", {self.bf16_seconds / self.fp32_seconds:.0f} × slower than fp32"
        return f"bfloat16 is emulated on this machine{times}: let engineers with bf16 instructions serve this run"


async def measure_precision(sandbox: Sandbox, scale: Scale) -> PrecisionSpeed:
    """Time both precisions in a child with the threads of a training, on its device. Raises SandboxUnavailable."""
    limits = Limits(memory_bytes=1 << 30, cpu_seconds=_SECONDS, wall_seconds=_SECONDS, threads=scale.threads)
    async with sandbox.child(GUEST, limits) as child:
        header: dict[str, JSON] = {"device": scale.device, "threads": scale.threads}
        try:
            answer = await ask(child, "measure", header, {}, expect="measured", timeout=_SECONDS)
        except TrainingFailed as failed:
            raise SandboxUnavailable(f"no precision could be measured: {failed.message}") from failed
    bf16 = answer.header.get("bf16")
    return PrecisionSpeed(number(answer, "fp32"), None if bf16 is None else number(answer, "bf16"))


def decided(scale: Scale, speed: PrecisionSpeed) -> Scale:
    """The scale with `auto` replaced by the machine's best precision."""
    return replace(scale, precision=speed.best) if scale.precision == AUTO else scale


def run(channel: Channel) -> None:
    """The guest: time both precisions, answer, end."""
    header = channel.receive().header
    torch.set_num_threads(int(cast("int", header["threads"])))
    device = str(header["device"])
    if device == "cuda":  # no timing: tensor cores for bf16 came with the first GPUs that have the type
        bf16 = 0.5 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        channel.send("measured", {"fp32": 1.0, "bf16": bf16})
        return
    channel.send("measured", {"fp32": _seconds(FP32), "bf16": _seconds(BF16)})


def _seconds(precision: str) -> float:
    """The best of a few: CPU time, which other work on the machine hardly changes."""
    layer = nn.Linear(_WIDTH, _INNER, bias=False)
    x = torch.randn(_ROWS, _WIDTH, requires_grad=True)
    best = float("inf")
    for _ in range(_REPEATS):
        began = process_time()
        with autocast("cpu", precision):
            loss = layer(x).float().sum()
        torch.autograd.backward(loss)
        best = min(best, process_time() - began)
    return best
