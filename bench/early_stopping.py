"""What early stopping costs a search, simulated on the shipped table of mixers.

    python -m bench.early_stopping [--runs 100] [--trainings 100]

Each run trains architectures chosen by `pool-surrogate`, the table's form of the offline mind's model, one after the
other, with a random one of their recorded seeds. With stopping, the rule `quantiles` ends trainings by their recorded
curves, as in a run, and the model is given either the held-out loss at the stop or the end predicted from the curves.
Prints the regret: the true loss of the best of the five finished architectures with the lowest losses, minus the lowest
of the table (nats per byte, mean over the runs with its standard error).
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from services.domain.curves import Curve, behind, expected_ends
from services.table import Table
from services.table.policies import pool_surrogate
from services.table.records import Record
from services.table.table import FINALISTS, Choice, Observation, Search

WITHOUT, AT_THE_STOP, PREDICTED = "no stopping", "loss at the stop", "predicted end"
COMPUTE = (30, 50, 70)
"""In full trainings: where the regret is printed, besides the end."""


def regrets(table: Table, mode: str, trainings: int, seed: int) -> list[tuple[float, float]]:
    """The compute spent, in full trainings, and the regret after each training with a finished one."""
    rng = random.Random(seed)
    search = Search(table, rng, trainings)
    names, records, curves = list[str](), list[Record](), list[Curve]()
    spent, trace = 0.0, list[tuple[float, float]]()
    for _ in range(trainings):
        search.observations = observations(names, records, curves, mode)
        choice = pool_surrogate(search)
        name = choice.architecture if isinstance(choice, Choice) else choice
        search.seen[name] = 1.0
        record = rng.choice(table.records(name))
        if record.loss is None:
            spent += 1
            continue
        curve = whole(record) if mode == WITHOUT else stopped(whole(record), curves)
        names.append(name)
        records.append(record)
        curves.append(curve)
        spent += curve.progress
        finished = [index for index, curve in enumerate(curves) if curve.final is not None]
        best = sorted(finished, key=lambda index: curves[index].ending)[:FINALISTS]
        if best:
            trace.append((spent, min(table.truth[names[index]] for index in best) - table.best))
    return trace


def observations(
    names: Sequence[str], records: Sequence[Record], curves: Sequence[Curve], mode: str
) -> list[Observation]:
    """What the model is given."""
    if mode == AT_THE_STOP:
        losses = [record.at(curve.progress) for record, curve in zip(records, curves, strict=True)]
    else:
        losses = expected_ends(curves)
    return [Observation(name, 1.0, loss) for name, loss in zip(names, losses, strict=True)]


def whole(record: Record) -> Curve:
    """The recorded curve of training losses, which ends with the held-out loss."""
    steps, losses, _ = zip(*record.curve, strict=True)
    return Curve(steps, losses, steps[-1], record.loss)


def stopped(curve: Curve, earlier: Sequence[Curve]) -> Curve:
    """The curve up to the point at which the rule stops its training."""
    reason = behind(curve, earlier)
    if reason is None:
        return curve
    count = sum(step <= reason.fraction * curve.total for step in curve.steps)
    return replace(curve, steps=curve.steps[:count], losses=curve.losses[:count], final=None)


def at(trace: Sequence[tuple[float, float]], compute: float) -> float:
    """The regret after this compute; that of the first result before there is one."""
    return next((regret for spent, regret in reversed(trace) if spent <= compute + 1e-9), trace[0][1])


def report(results: Mapping[str, Sequence[Sequence[tuple[float, float]]]], trainings: int) -> None:
    """A line per mode."""
    heads = (*(f"compute {compute}" for compute in COMPUTE), f"{trainings} trainings")
    print(f"{'regret after':18}{''.join(f'{head:>18}' for head in heads)}{'their compute':>16}")
    for mode, traces in results.items():
        cells = ""
        for compute in (*COMPUTE, trainings):
            values = [at(trace, compute) for trace in traces]
            cells += f"{f'{fmean(values):.4f} ± {stdev(values) / len(values) ** 0.5:.4f}':>18}"
        print(f"{mode:18}{cells}{fmean(trace[-1][0] for trace in traces):>16.0f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--trainings", type=int, default=100, help="of each run")
    options = parser.parse_args()
    table = Table.load()
    report(
        {
            mode: [regrets(table, mode, options.trainings, seed) for seed in range(options.runs)]
            for mode in (WITHOUT, AT_THE_STOP, PREDICTED)
        },
        options.trainings,
    )


if __name__ == "__main__":
    main()
