"""What cheap signals are worth: reliability over seeds, cost, and agreement with published orders of architectures.

    python -m bench.signals [--tasks mqar,copying] [--names delta_net,gla] [--seeds 1 2] [--steps 200] [--out FILE]

Every baseline of the published order is trained on every task with every seed, and once as a language model at scale
`mini`. A line of the result file is one training, so that a run that was interrupted goes on where it was. The order is
that of the perplexities in tables of arXiv:2412.06464 (1.3B) and arXiv:2406.06484 (340M), as far as the zoo has the
architecture; Spearman's correlation comes with a bootstrap interval, which for six architectures is wide.
"""

import argparse
import asyncio
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from services.domain.statistics import pooled_noise, spearman
from services.domain.zoo import baseline
from services.engineer.data import open_corpus
from services.engineer.evaluation.trained_tasks import TASKS, train_on
from services.engineer.scales import load_scale
from services.engineer.training.errors import TrainingFailed
from services.engineer.training.host import train
from services.engineer.training.result import Metrics
from services.sandbox import Sandbox

PUBLISHED: Mapping[str, float] = {
    "gated_delta_net": 16.42, "mamba2": 16.56, "delta_net": 17.71, "retnet": 19.08, "hgrn2": 19.10,
}  # fmt: skip
"""WikiText perplexity at 1.3B parameters and 100B tokens; lower is better."""
PUBLISHED_SMALL: Mapping[str, float] = {"delta_net": 28.24, "gla": 29.47, "retnet": 32.33}
"""The same at 340M parameters and 15B tokens."""
PAIRS = [
    (better, worse)
    for order in (PUBLISHED, PUBLISHED_SMALL)
    for better in order
    for worse in order
    if order[better] < order[worse]
]
LOSS = "mini loss"
RESAMPLES = 1000


async def language_model(name: str, seed: int, sandbox: Sandbox) -> dict[str, object]:
    """The held-out loss at scale `mini`."""
    scale = load_scale("mini", {"tasks": "", "averaged": ""})
    chunks: list[Metrics] = []
    corpus = open_corpus(scale, Path(), "signals")
    result = await train(baseline(name).program, seed, scale, corpus, sandbox, on_progress=chunks.append)
    starts = [0, *(chunk.step for chunk in chunks)]
    busy = sum((c.busy_per_step or 0.0) * (c.step - s) for c, s in zip(chunks, starts, strict=False))
    return {"task": LOSS, "name": name, "seed": seed, "score": -result.loss, "cpu_seconds": busy}


async def task(name: str, which: str, seed: int, steps: int, sandbox: Sandbox) -> dict[str, object]:
    """Accuracy, its curve and the steps to 90 % on one trained task."""
    result = await train_on(TASKS[which], baseline(name).program, seed, sandbox, steps=steps)
    area = fmean(accuracy for _, accuracy in result.curve)
    return {**asdict(result), "name": name, "score": result.accuracy, "area": area}


async def collect(arguments: argparse.Namespace, done: list[dict[str, object]]) -> list[dict[str, object]]:
    """What is not among the rows that are done is measured and appended to the file; all rows are returned."""
    place: Path = arguments.out
    known = {(row["task"], row["name"], row["seed"]) for row in done}
    async with Sandbox() as sandbox:
        for seed in arguments.seeds:
            for which in (*arguments.tasks, LOSS):
                for name in arguments.names:
                    if (which, name, seed) in known:
                        continue
                    try:
                        row = await (
                            language_model(name, seed, sandbox)
                            if which == LOSS
                            else task(name, which, seed, arguments.steps, sandbox)
                        )
                    except TrainingFailed as failed:
                        row = {"task": which, "name": name, "seed": seed, "failed": failed.message}
                    with place.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(which, name, seed, row.get("score", row.get("failed")), flush=True)
                    done.append(row)
    return done


def report(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Per signal: reliability, seconds, correlation with the 1.3B order with its interval, and pairs in order."""
    told = []
    for which in dict.fromkeys(str(row["task"]) for row in rows):
        scores: dict[str, list[float]] = {}
        for row in rows:
            if row["task"] == which and "score" in row:
                scores.setdefault(str(row["name"]), []).append(float(str(row["score"])))
        means = {name: fmean(values) for name, values in scores.items()}
        shared = [name for name in PUBLISHED if name in means]
        pairs = [(a, b) for a, b in PAIRS if a in means and b in means]
        seconds = [float(str(row["cpu_seconds"])) for row in rows if row["task"] == which and "cpu_seconds" in row]
        told.append({
            "signal": which, "architectures": len(means), "trainings": sum(map(len, scores.values())),
            "cpu_seconds": round(fmean(seconds), 1), "reliability": reliability(scores),
            **agreement([means[name] for name in shared], [-PUBLISHED[name] for name in shared]),
            "pairs_in_order": f"{sum(means[a] > means[b] for a, b in pairs)} of {len(pairs)}",
            "means": {name: round(value, 4) for name, value in sorted(means.items(), key=lambda item: -item[1])},
        })  # fmt: skip
    return told


def reliability(scores: Mapping[str, Sequence[float]]) -> float | None:
    """The share of variance between architectures that a single training shows; None without second seeds."""
    groups = [values for values in scores.values() if len(values) > 1]
    if len(groups) < 3:
        return None
    within = pooled_noise(groups).deviation ** 2
    singles = [values[0] for values in groups]
    total = fmean((value - fmean(singles)) ** 2 for value in singles) * len(singles) / (len(singles) - 1)
    return round(max(0.0, 1 - within / total), 3) if total else None


def agreement(ours: Sequence[float], published: Sequence[float]) -> dict[str, object]:
    """Spearman's correlation with the percentile bootstrap over architectures."""
    if len(ours) < 4 or len(set(ours)) < 2:
        return {"spearman": None}
    rng, rhos = random.Random(0), list[float]()
    for _ in range(RESAMPLES):
        drawn = rng.choices(range(len(ours)), k=len(ours))
        if len({ours[at] for at in drawn}) > 1 and len({published[at] for at in drawn}) > 1:
            rhos.append(spearman([ours[at] for at in drawn], [published[at] for at in drawn]).rho)
    rhos.sort()
    low, high = rhos[math.floor(0.025 * len(rhos))], rhos[math.ceil(0.975 * len(rhos)) - 1]
    return {"spearman": round(spearman(ours, published).rho, 2), "low": round(low, 2), "high": round(high, 2)}


def main() -> None:
    """Collect and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(TASKS))
    names = list(dict.fromkeys([*PUBLISHED, *PUBLISHED_SMALL]))
    parser.add_argument("--names", type=lambda text: text.split(","), default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("signals.jsonl"))
    arguments = parser.parse_args()
    done = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    print(json.dumps(report(asyncio.run(collect(arguments, done))), indent=2))


if __name__ == "__main__":
    main()
