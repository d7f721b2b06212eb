"""Time from the request for a child to its first forward pass, of one Linear layer.

    python bench/fork_server.py [--children 40]

Prints the median and the 95th percentile in milliseconds for each set of layers that this machine supports, and
the time of a new process that imports torch itself.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

from services.sandbox import Limits, Sandbox
from services.sandbox.confinement import ALL_LAYERS
from services.sandbox.wire import Channel

ROOT = Path(__file__).resolve().parents[1]
LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=60, wall_seconds=60)


def first_forward(channel: Channel) -> None:
    """The child's job: one forward pass, then a message."""
    import torch

    with torch.no_grad():
        result = torch.nn.Linear(128, 128)(torch.ones(1, 64, 128))
    channel.send("done", {"sum": float(result.sum())})


async def measure(layers: frozenset[str], children: int) -> None:
    """Print one line for a set of layers."""
    started = time.perf_counter()
    async with Sandbox(preload=("torch", "bench.fork_server"), readable=[ROOT / "bench"], layers=layers) as sandbox:
        opened = time.perf_counter() - started
        answers, ends = [], []
        for _ in range(children):
            started = time.perf_counter()
            async with sandbox.child("bench.fork_server:first_forward", LIMITS) as child:
                await child.receive(timeout=30)
                answered = time.perf_counter()
            answers.append((answered - started) * 1e3)
            ends.append((time.perf_counter() - answered) * 1e3)
    print(
        f"{sandbox.level:48} start {opened:5.2f} s   first forward median {statistics.median(answers):6.1f} ms, "
        f"p95 {statistics.quantiles(answers, n=20)[-1]:6.1f} ms   end median {statistics.median(ends):5.1f} ms"
    )


def cold() -> float:
    """Seconds of a new process for the same, without a sandbox."""
    program = "import torch; torch.set_num_threads(1); torch.nn.Linear(128, 128)(torch.ones(1, 64, 128)).sum().item()"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--children", type=int, default=40)
    children = parser.parse_args().children
    print(f"{'a new process that imports torch':48} first forward {cold() * 1e3:6.1f} ms")
    for layers in (frozenset[str](), frozenset({"seccomp"}), frozenset({"landlock", "seccomp"}),
                   ALL_LAYERS - {"bubblewrap"}, ALL_LAYERS):  # fmt: skip
        asyncio.run(measure(layers, children))


if __name__ == "__main__":
    main()
