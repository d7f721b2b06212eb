"""Measures the faster precision of a machine, for `precision = "auto"` of a scale.

`python -m services.engineer.precision SCALE [NAME=VALUE …]` prints whether this machine is slow in a scale's.
bfloat16 is fast only on processors with instructions for it (AVX-512 BF16, AMX, the bf16 extension of Arm v8.6).
Elsewhere it is emulated, up to forty times slower than float32.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import thread_time
from typing import Any

import torch
from torch import nn

from services.engineer.scales import Scale, ScaleError
from services.engineer.scales.__main__ import scale_of
from services.engineer.training.model import AUTO, BF16, FP32, autocast
from services.engineer.training.protocol import measured, number
from services.sandbox import JSON, Channel, Sandbox, SandboxUnavailable
from services.sandbox.limits import Limits

JOB = "services.engineer.precision:run"
MAX_SLOWDOWN = 1.5
"""Of bf16 relative to float32; an engineer that exceeds it reports that it is unsuited to a bf16 run."""
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class PrecisionSpeed:
    """CPU seconds of one projection, forward and backward, in each precision; None for an unsupported one."""

    fp32_seconds: float
    bf16_seconds: float | None

    @property
    def best(self) -> str:
        """The faster precision."""
        faster = self.bf16_seconds is not None and self.bf16_seconds < self.fp32_seconds
        return BF16 if faster else FP32

    def slow(self, precision: str) -> str | None:
        """The reason if `precision` is much slower than float32 on this machine; else None."""
        if precision != BF16 or (self.bf16_seconds or float("inf")) <= MAX_SLOWDOWN * self.fp32_seconds:
            return None
        times = "" if self.bf16_seconds is None else f", {self.bf16_seconds / self.fp32_seconds:.0f} × slower than fp32"
        return f"bfloat16 is emulated on this machine{times}"


async def measure_precision(sandbox: Sandbox, scale: Scale) -> PrecisionSpeed:
    """Time both precisions in a child with a training's threads and device. Raises SandboxUnavailable."""
    limits = Limits(
        memory_bytes=1 << 30, cpu_seconds=_TIMEOUT_SECONDS, wall_seconds=_TIMEOUT_SECONDS, threads=scale.threads
    )
    header: dict[str, JSON] = {"device": scale.device, "threads": scale.threads}
    answer = await measured(sandbox, JOB, limits, header, "the faster precision")
    bf16 = answer.header.get("bf16")
    return PrecisionSpeed(number(answer, "fp32"), None if bf16 is None else number(answer, "bf16"))


def with_precision(scale: Scale, speed: PrecisionSpeed) -> Scale:
    """The scale, with `auto` replaced by the faster precision."""
    return replace(scale, precision=speed.best) if scale.precision == AUTO else scale


def run(channel: Channel) -> None:
    """The child's job: time both precisions."""
    request = channel.receive()
    torch.set_num_threads(request.integer("threads"))
    if request.header["device"] == "cuda":  # all GPUs that support bf16 have tensor cores for it
        bf16 = 0.5 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        channel.send("measured", {"fp32": 1.0, "bf16": bf16})
        return
    channel.send("measured", {"fp32": _seconds(FP32), "bf16": _seconds(BF16)})


def _seconds(precision: str) -> float:
    layer, x = nn.Linear(128, 256, bias=False), torch.randn(2048, 128, requires_grad=True)
    return pass_seconds(lambda: layer(x), precision, repeats=5)


def pass_seconds(call: Callable[[], Any], precision: str, repeats: int) -> float:
    """The least CPU time of this thread for a forward and backward.

    The process clock may not advance for a while in a confined child, which gave a time of zero.
    """
    best = float("inf")
    for _ in range(repeats):
        start = thread_time()
        with autocast("cpu", precision):
            output = call()
            loss = (output[0] if isinstance(output, tuple) else output).float().sum()
        torch.autograd.backward(loss)
        best = min(best, thread_time() - start)
    return best


async def main(arguments: list[str]) -> None:
    """Print as JSON why this machine is slow in the scale's precision, or null; exits with 2 for an invalid scale."""
    try:
        scale = scale_of(arguments)
        async with Sandbox() as sandbox:
            speed = await measure_precision(sandbox, scale)
    except (ScaleError, SandboxUnavailable) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2 if isinstance(error, ScaleError) else 1)
    sys.stdout.write(json.dumps({"slow": speed.slow(scale.precision)}) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
