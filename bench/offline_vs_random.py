"""The offline mind against random compositions of the same moves, at an equal budget of tiny candidates.

    python -m bench.offline_vs_random [--candidates 40] [--seeds 1 2 3] [--set steps=300] [--out FILE]

Each side runs once per seed in a data folder of its own, one seat, the same baselines; what is compared is the best
fitness among the proposals and the mean of their five best. The result file holds every run and, where there are two
seeds or more, mean and standard deviation over them. Nothing is said to differ that the spread does not support.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

SIDES: Mapping[str, Sequence[str]] = {
    "offline": (),
    "surrogate": ("--policy", "search=surrogate"),
    "random": ("--policy", "search=random"),
}
BEST = 5


@dataclass(frozen=True)
class Result:
    """One run. `best` and `mean_of_best` are None where no proposal was scored, or fewer than five."""

    side: str
    seed: int
    scored: int
    rejected: int
    best: float | None
    mean_of_best: float | None
    best_loss: float | None
    seconds: float


def result_of(side: str, seed: int, rows: Sequence[Mapping[str, object]], seconds: float) -> Result:
    """From the rows that `asi-arch run --json` prints; baselines do not count."""
    proposals = [one for one in rows if one["kind"] == "proposal"]
    fitness = sorted(_numbers(proposals, "fitness"), reverse=True)
    return Result(
        side=side,
        seed=seed,
        scored=len(fitness),
        rejected=sum(one["state"] == "rejected" for one in proposals),
        best=fitness[0] if fitness else None,
        mean_of_best=mean(fitness[:BEST]) if len(fitness) >= BEST else None,
        best_loss=min(_numbers(proposals, "loss"), default=None),
        seconds=round(seconds, 1),
    )


def measure(side: str, seed: int, candidates: int, passed_on: Sequence[str]) -> Result:
    """One run in a folder that is thrown away. Raises CalledProcessError when it fails; its words are shown."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "services.console", "run", "--json", "--mind", "offline", "--seats", "1",
            "--seed", str(seed), "--candidates", str(candidates), *SIDES[side], *passed_on,
        ]  # fmt: skip
        begun = time.perf_counter()
        environment = {**os.environ, "ASI_DATA_DIR": folder}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return result_of(side, seed, json.loads(done.stdout), time.perf_counter() - begun)


def summary(results: Sequence[Result]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation over seeds, by side; None where a side has too few numbers."""
    told: dict[str, dict[str, float | None]] = {}
    for side in SIDES:
        told[side] = {}
        for name in ("best", "mean_of_best"):
            values = [getattr(one, name) for one in results if one.side == side and getattr(one, name) is not None]
            told[side][name] = mean(values) if values else None
            told[side][f"{name}_stdev"] = stdev(values) if len(values) > 1 else None
    return told


def _numbers(rows: Sequence[Mapping[str, object]], name: str) -> list[float]:
    return [value for one in rows if isinstance(value := one[name], float)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=40, help="proposals per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--baselines", default="delta_net,gated_delta_net", help="as of `asi-arch run`")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override of the scale")
    parser.add_argument("--out", type=Path, default=Path("build/offline_vs_random.json"))
    return parser.parse_args()


def main() -> None:
    """Write the result file anew after every run, so that a bench cut short leaves what it has."""
    arguments = _arguments()
    passed_on = ["--baselines", arguments.baselines]
    for one in arguments.overrides:
        passed_on += ["--set", one]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for seed in arguments.seeds:
        for side in SIDES:
            results.append(measure(side, seed, arguments.candidates, passed_on))
            found = {
                "candidates": arguments.candidates,
                "settings": passed_on,
                "runs": [asdict(one) for one in results],
                "summary": summary(results),
            }
            arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            sys.stdout.write(f"{json.dumps(asdict(results[-1]))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
