"""What a check costs: seconds for each baseline program on one core, and the share of each probe.

    python -m bench.check_cost [--repeats 3]

Prints one line per program with the median of the repeats, then the median over the programs with what each probe took
of it. Probes are timed from outside, by when the child says that they begin and end; what is left is the start of the
child and loading the program.
"""

import argparse
import asyncio
import statistics
import time
from collections import defaultdict

from services.domain.zoo import Baseline, baselines
from services.engineer.checks.host import JOB, check
from services.engineer.checks.report import CheckSettings
from services.sandbox import Limits, Sandbox

SETTINGS = CheckSettings(exempt=("cost",), seconds=300.0)
FULL = CheckSettings(seconds=300.0)


def settings_for(program: Baseline) -> CheckSettings:
    """The reference is exempt from the cost probe, as in a run."""
    return SETTINGS if program.role == "reference" else FULL


async def probe_seconds(program: Baseline, sandbox: Sandbox) -> dict[str, float]:
    """Seconds of each probe in one child, and of what comes before the first as "start"."""
    settings = settings_for(program)
    limits = Limits(settings.memory_bytes, cpu_seconds=settings.seconds, wall_seconds=settings.seconds)
    seconds: dict[str, float] = {}
    began, probe = time.perf_counter(), "start"
    async with sandbox.child(JOB, limits) as child:
        await child.send("check", {"program": program.program, "settings": settings.to_json()})
        while (message := await child.receive(timeout=settings.seconds)).kind != "finished":
            now = time.perf_counter()
            if message.kind == "started" and probe != "start":
                began = now
            else:
                seconds[probe] = now - began
            began, probe = now, str(message.header["probe"])
    return seconds


async def measure(repeats: int) -> None:
    """Print all lines."""
    medians: list[float] = []
    shares: dict[str, list[float]] = defaultdict(list)
    async with Sandbox() as sandbox:
        print(f"isolation {sandbox.level}")
        for program in baselines():
            reports = [await check(program.program, sandbox, settings_for(program)) for _ in range(repeats)]
            medians.append(statistics.median(report.seconds for report in reports))
            for probe, seconds in (await probe_seconds(program, sandbox)).items():
                shares[probe].append(seconds)
            print(
                f"{program.name:24} {medians[-1]:6.2f} s   {'passed' if reports[0].passed else 'refused'}", flush=True
            )
    print(f"{'median of the programs':24} {statistics.median(medians):6.2f} s, of which")
    for probe, taken in sorted(shares.items(), key=lambda one: -statistics.median(one[1])):
        print(f"  {probe:22} {statistics.median(taken):6.2f} s")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    asyncio.run(measure(parser.parse_args().repeats))


if __name__ == "__main__":
    main()
