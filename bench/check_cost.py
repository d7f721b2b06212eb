"""The cost of a check: processor seconds of each program, and of each probe.

    python -m bench.check_cost [--repeats 3] [--verdicts] [FILE ...]

Without files, the baseline programs are checked. Prints one line per program with the processor seconds of child and
host and the elapsed time, then for each probe the median over the programs, for the child and for the host, which draws
inputs and compares. Processor time hardly depends on other load, unlike elapsed time.
"""

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from pathlib import Path

from services.domain.zoo import baselines
from services.engineer.checks.host import probe_program
from services.engineer.checks.report import CheckSettings, Verdict
from services.engineer.checks.screen import screen_apart
from services.sandbox import PRELOAD_CHECKS, Sandbox

EXEMPT = CheckSettings(exempt=("cost",), seconds=300.0)
FULL = CheckSettings(seconds=300.0)


def programs_of(files: list[Path]) -> dict[str, tuple[str, CheckSettings]]:
    """Program and settings by name; the reference is exempt from the cost probe, as in a run."""
    if files:
        return {file.stem: (file.read_text(encoding="utf-8"), FULL) for file in files}
    return {
        baseline.name: (baseline.program, EXEMPT if baseline.role == "reference" else FULL) for baseline in baselines()
    }


async def check_once(
    program: str, sandbox: Sandbox, settings: CheckSettings
) -> tuple[dict[str, float], float, list[Verdict]]:
    """Processor seconds by probe, elapsed seconds, and the verdicts."""
    spent: dict[str, float] = {}
    started, busy = time.perf_counter(), time.process_time()
    verdicts = [Verdict.of("screen", True, await screen_apart(program, sandbox))]
    verdicts += await probe_program(program, sandbox, settings, spent)
    spent["the host's part"] = time.process_time() - busy
    return spent, time.perf_counter() - started, verdicts


async def measure(files: list[Path], repeats: int, show: bool) -> None:
    """Print all lines."""
    shares: dict[str, list[float]] = defaultdict(list)
    async with Sandbox(preload=PRELOAD_CHECKS) as sandbox:
        for name, (program, settings) in programs_of(files).items():
            runs = [await check_once(program, sandbox, settings) for _ in range(repeats)]
            spent = {probe: min(run[0].get(probe, 0.0) for run in runs) for probe in runs[0][0]}
            spent["all"] = sum(spent.values())
            for probe, seconds in spent.items():
                shares[probe].append(seconds)
            complaints = [verdict for verdict in runs[-1][2] if verdict.outcome != "pass"]
            refused = any(verdict.outcome == "fail" for verdict in complaints)
            clock = min(run[1] for run in runs)
            outcome = "refused" if refused else "passed"
            print(f"{name:30} {spent['all']:6.2f} processor seconds {clock:6.2f} elapsed   {outcome}", flush=True)
            for verdict in complaints if show else []:
                print(f"    {verdict.outcome} {verdict.probe}: {verdict.message[:300]}", flush=True)
    print("median over the programs, in processor seconds:")
    for probe, taken in sorted(shares.items(), key=lambda item: -statistics.median(item[1])):
        print(f"  {probe:22} {statistics.median(taken):6.2f} s")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="programs to check instead")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--verdicts", action="store_true", help="print verdicts that are not a pass")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.files, arguments.repeats, arguments.verdicts))


if __name__ == "__main__":
    main()
