"""The value of cheap signals: reliability over seeds, cost, and agreement with published orders of architectures.

    python -m bench.signals [--tasks mqar,copying] [--names delta_net,gla] [--seeds 1 2] [--steps 200] [--out FILE]

Every architecture of a published order is trained on every task with every seed, and as a language model at scale
`mini`. A line of the result file is one training, so an interrupted run continues. The orders are those of the
perplexities in arXiv:2412.06464 (1.3B, and its ablation at 400M) and arXiv:2406.06484 (340M), for
architectures of the zoo or of a description. Accuracy at the end and its mean over the curve are two signals.
"""

import argparse
import asyncio
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import StatisticsError, correlation, fmean

from services.domain.statistics import pooled_noise, spearman
from services.domain.zoo import baseline
from services.engineer.data import open_corpus
from services.engineer.evaluation.trained_tasks import TASKS, train_on
from services.engineer.scales import load_scale
from services.engineer.training.host import train
from services.engineer.training.result import Metrics, TrainingFailed
from services.mixers.description import CATALOGUE, Features, Inputs, Memory, Mixer, Output
from services.mixers.render import render
from services.sandbox import Sandbox

PUBLISHED: Mapping[str, float] = {
    "gated_delta_net": 16.42, "mamba2": 16.56, "delta_net": 17.71, "retnet": 19.08, "hgrn2": 19.10,
}  # fmt: skip
"""WikiText perplexity at 1.3B parameters and 100B tokens; lower is better."""
PUBLISHED_SMALL: Mapping[str, float] = {"delta_net": 28.24, "gla": 29.47, "retnet": 32.33}
"""The same at 340M parameters and 15B tokens."""
_GATED = CATALOGUE["gated_delta_net"]
VARIANTS: Mapping[str, Mixer] = {
    "gated_delta_net without output norm": _GATED.model_copy(update={"output": Output(gate="swish", norm="none")}),
    "gated_delta_net without convolution": _GATED.model_copy(update={"inputs": Inputs(convolved="")}),
    "gated_delta_net without output gate": _GATED.model_copy(update={"output": Output()}),
    "gated_delta_net without decay": _GATED.model_copy(update={"memory": Memory()}),
    "delta_net with elu and l2": Mixer(features=Features(map="elu")),
    "delta_net with elu and sum": Mixer(features=Features(map="elu", norm="sum")),
}
PUBLISHED_PARTS: Mapping[str, float] = dict(
    zip(("gated_delta_net", *VARIANTS), (27.35, 27.55, 28.95, 29.12, 30.87), strict=False)
)
"""Mean perplexity at 400M parameters and 15B tokens, without one part of Gated DeltaNet each."""
PUBLISHED_KEYS: Mapping[str, float] = {"delta_net with elu and l2": 28.03, "delta_net with elu and sum": 31.12}
"""WikiText perplexity at 340M parameters by the norm of the keys."""
ORDERS = (PUBLISHED, PUBLISHED_SMALL, PUBLISHED_PARTS, PUBLISHED_KEYS)
LOSS = "mini loss"
RESAMPLES = 1000


def program(name: str) -> str:
    """The program of a variant or of a baseline of the zoo."""
    return render(VARIANTS[name], name) if name in VARIANTS else baseline(name).program


async def language_model(name: str, seed: int, sandbox: Sandbox) -> dict[str, object]:
    """The held-out loss at scale `mini`."""
    scale = load_scale("mini", {"tasks": "", "averaged": ""})
    chunks: list[Metrics] = []
    corpus = open_corpus(scale, Path(), "signals")
    result = await train(program(name), seed, scale, corpus, sandbox, on_progress=chunks.append)
    starts = [0, *(chunk.step for chunk in chunks)]
    busy = sum((c.busy_per_step or 0.0) * (c.step - s) for c, s in zip(chunks, starts, strict=False))
    return {"task": LOSS, "name": name, "seed": seed, "score": -result.loss, "cpu_seconds": busy}


async def task(name: str, which: str, seed: int, steps: int, sandbox: Sandbox) -> dict[str, object]:
    """Accuracy, its curve and the steps to 90 % on one trained task."""
    result, _ = await train_on(TASKS[which], program(name), seed, sandbox, steps=steps)
    area = fmean(accuracy for _, accuracy in result.curve)
    return {**asdict(result), "name": name, "score": result.accuracy, "area": area}


async def collect(arguments: argparse.Namespace, done: list[dict[str, object]]) -> list[dict[str, object]]:
    """Measure the missing rows and append them to the file; returns all rows."""
    path: Path = arguments.out
    known = {(row["task"], row["name"], row["seed"]) for row in done}
    async with Sandbox() as sandbox:
        for seed in arguments.seeds:
            for which in (LOSS, *arguments.tasks):
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
                    with path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(which, name, seed, row.get("score", row.get("failed")), flush=True)
                    done.append(row)
    return done


def report(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Per signal: reliability over seeds, seconds, and agreement with the published orders."""
    signals = []
    for which, field in dict.fromkeys((str(row["task"]), field) for field in ("score", "area") for row in rows):
        trained = [row for row in rows if row["task"] == which and field in row]
        if not trained:
            continue
        scores: dict[str, list[float]] = {}
        for row in sorted(trained, key=lambda row: int(str(row["seed"]))):
            scores.setdefault(str(row["name"]), []).append(float(str(row[field])))
        means = {name: fmean(values) for name, values in scores.items()}
        pairs = [
            (means[better], means[worse])
            for order in ORDERS
            for better in order
            for worse in order
            if order[better] < order[worse] and better in means and worse in means
        ]
        signals.append({
            "signal": which + (", mean of the curve" if field == "area" else ""), "architectures": len(means),
            "trainings": len(trained),
            "cpu_seconds": round(fmean(float(str(row["cpu_seconds"])) for row in trained), 1),
            "reliability": reliability(scores), "retest": retest(scores), **agreement(means),
            "pairs_in_order": f"{sum(better > worse for better, worse in pairs)} of {len(pairs)}",
            "means": {name: round(value, 4) for name, value in sorted(means.items(), key=lambda item: -item[1])},
        })  # fmt: skip
    return signals


def reliability(scores: Mapping[str, Sequence[float]]) -> float | None:
    """The share of variance between architectures that a single training shows; None without second seeds."""
    groups = [values for values in scores.values() if len(values) > 1]
    if len(groups) < 3:
        return None
    within = pooled_noise(groups).deviation ** 2
    singles = [values[0] for values in groups]
    total = fmean((value - fmean(singles)) ** 2 for value in singles) * len(singles) / (len(singles) - 1)
    return round(max(0.0, 1 - within / total), 3) if total else None


def retest(scores: Mapping[str, Sequence[float]]) -> float | None:
    """Pearson's correlation of the first two seeds over architectures."""
    pairs = [values[:2] for values in scores.values() if len(values) > 1]
    try:
        return round(correlation([first for first, _ in pairs], [second for _, second in pairs]), 2)
    except StatisticsError:  # fewer than two architectures, or a constant
        return None


def agreement(means: Mapping[str, float]) -> dict[str, object]:
    """Spearman's correlation with both orders of five architectures, their mean, and its bootstrap interval.

    The bootstrap draws architectures within each order.
    """
    orders = [
        [(means[name], -order[name]) for name in order if name in means] for order in (PUBLISHED, PUBLISHED_PARTS)
    ]
    orders = [order for order in orders if len(order) > 3 and len({ours for ours, _ in order}) > 1]
    if not orders:
        return {"spearman": None}
    rng, draws = random.Random(0), list[float]()
    for _ in range(RESAMPLES):
        drawn = [rng.choices(order, k=len(order)) for order in orders]
        if all(len({ours for ours, _ in order}) > 1 and len({out for _, out in order}) > 1 for order in drawn):
            draws.append(fmean(_rho(order) for order in drawn))
    draws.sort()
    low, high = draws[math.floor(0.025 * len(draws))], draws[math.ceil(0.975 * len(draws)) - 1]
    rhos = [round(_rho(order), 2) for order in orders]
    return {"spearman": round(fmean(rhos), 2), "low": round(low, 2), "high": round(high, 2), "by_order": rhos}


def _rho(order: Sequence[tuple[float, float]]) -> float:
    return spearman([ours for ours, _ in order], [published for _, published in order]).rho


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=lambda text: [name for name in text.split(",") if name], default=list(TASKS))
    names = list(dict.fromkeys(name for order in ORDERS for name in order))
    parser.add_argument("--names", type=lambda text: text.split(","), default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("signals.jsonl"))
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    done = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    rows = done if arguments.report else asyncio.run(collect(arguments, done))
    print(json.dumps(report(rows), indent=2))


if __name__ == "__main__":
    main()
