"""`asi-arch scaling`: how candidates better than the strongest control come with compute, in a run or on the table."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from services.chassis.errors import NotPossible
from services.console.archive import run_and_candidates
from services.console.options import Json, Run, RunArgument, chosen_run, one_of, print_json
from services.console.settings import console_settings
from services.console.tables import paragraph, say
from services.contracts import candidate_pb2 as pb
from services.domain.curves import Control, DiscoveryScaling, discovery_scaling, strongest_control
from services.domain.zoo import baseline, baselines

if TYPE_CHECKING:
    from services.table import Table

HOUR = 3600.0
TABLE_BUDGET, TABLE_RUNS = 50, 50


@dataclass(frozen=True)
class ScalingResult:
    """Successes against compute in `unit`, and the control to beat."""

    source: str
    unit: str
    control: Control
    candidates: int
    scaling: DiscoveryScaling


def scaling(
    argument: RunArgument = "",
    run: Run = "",
    on_table: Annotated[
        bool, typer.Option("--table", help="of simulated runs on the shipped table of mixers, which need no run")
    ] = False,
    policy: Annotated[str, typer.Option(help="of --table: the search policy")] = "bandit",
    budget: Annotated[int, typer.Option(min=4, help="of --table: trainings of each run")] = TABLE_BUDGET,
    runs: Annotated[int, typer.Option(min=1, help="of --table: how many runs")] = TABLE_RUNS,
    against: Annotated[str, typer.Option(help="a baseline's name; default: the strongest control")] = "",
    as_json: Json = False,
) -> None:
    """How many candidates better than the strongest control compute has bought, with a fit and its interval.

    Better means: the loss lies below the control's by more than the noise between seeds explains.
    """
    try:
        if on_table:
            from services.table.policies import POLICIES

            one_of("--policy", policy, tuple(POLICIES))
            result = on_the_table(policy, budget, runs, against)
        else:
            status, records = asyncio.run(run_and_candidates(console_settings(), chosen_run(argument, run)))
            result = of_run(status.run, records, against)
    except ValueError as error:
        raise NotPossible(f"nothing can be said: {error}") from None
    if as_json:
        print_json(as_row(result))
    else:
        say(paragraph(summary_text(result)))


def of_run(run: str, records: Sequence[pb.Candidate], against: str = "") -> ScalingResult:
    """From the search of a run; its compute includes controls. Raises ValueError if the noise is unknown."""
    references = {baseline.name for baseline in baselines() if baseline.role == "reference"}
    ordered = sorted(records, key=lambda record: (record.request.number, record.id))
    controls = {
        record.request.baseline: [seed.loss for seed in record.training.seeds]
        for record in ordered
        if record.kind == pb.KIND_BASELINE and record.training.seeds and record.request.baseline not in references
    }
    control = strongest_control(controls, against or None)
    trained = [
        record for record in ordered if record.training.seeds and record.kind in (pb.KIND_PROPOSAL, pb.KIND_BASELINE)
    ]
    work = []
    for record in trained:
        losses = [seed.loss for seed in record.training.seeds]
        better = record.kind == pb.KIND_PROPOSAL and control.is_beaten(sum(losses) / len(losses), len(losses))
        work.append((sum(seed.measurements.seconds for seed in record.training.seeds) / HOUR, better))
    proposals = sum(record.kind == pb.KIND_PROPOSAL for record in trained)
    return ScalingResult(f"run {run}", "hour of training and evaluation", control, proposals, discovery_scaling([work]))


def on_the_table(policy: str, budget: int = TABLE_BUDGET, runs: int = TABLE_RUNS, against: str = "") -> ScalingResult:
    """From simulated runs. Raises ValueError for a budget beyond the table."""
    from services.table import Table
    from services.table.policies import POLICIES

    measured = Table.load()
    if budget > len(measured.space):
        raise ValueError(f"the table holds {len(measured.space)} architectures: --budget is at most that")
    control = strongest_control(dict(_table_controls(measured)), against or None)
    work = []
    for seed in range(runs):
        before: dict[str, float] = {}
        trainings = []
        for observation in measured.simulate(POLICIES[policy], budget, seed).observations:
            better = observation.fidelity >= 1 and observation.loss is not None and control.is_beaten(observation.loss)
            trainings.append((observation.fidelity - before.get(observation.architecture, 0.0), better))
            before[observation.architecture] = observation.fidelity
        work.append(trainings)
    source = f"{runs} simulated runs of {policy} on the table"
    return ScalingResult(source, "training", control, sum(map(len, work)), discovery_scaling(work))


def as_row(result: ScalingResult) -> dict[str, object]:
    """As JSON; the exponent is null for too few successes."""
    control, fit = result.control, result.scaling
    interval = fit.exponent_interval
    return {
        "source": result.source, "unit": result.unit, "candidates": result.candidates, "better": fit.successes,
        "control": control.name, "control_loss": control.loss, "margin": control.reach(),
        "seed_deviation": control.noise.deviation, "spent": sum(fit.totals),
        "rate": fit.rate, "rate_low": fit.rate_interval.low, "rate_high": fit.rate_interval.high,
        "exponent": fit.exponent, "exponent_low": interval.low if interval else None,
        "exponent_high": interval.high if interval else None, "points": fit.runs,
    }  # fmt: skip


def summary_text(result: ScalingResult) -> str:
    """In sentences."""
    control, fit = result.control, result.scaling
    text = (
        f"{result.source}: {fit.successes} of {result.candidates} candidates are better than the control "
        f"{baseline(control.name).title} ({control.loss:.4f}) by more than {control.reach():.4f} nats, which seeds do "
        f"not explain (deviation {control.noise.deviation:.4f}); {fit.rate:.3g} per {result.unit} "
        f"[{fit.rate_interval.low:.3g}, {fit.rate_interval.high:.3g}]. "
    )
    if fit.exponent is None or fit.exponent_interval is None:
        return text + "Too few for an exponent."
    low, high = fit.exponent_interval.low, fit.exponent_interval.high
    shape = "slower than" if high < 1 else "faster than" if low > 1 else "not distinguishable from"
    return text + (
        f"The count grows as compute to the power {fit.exponent:.2f} [{low:.2f}, {high:.2f}]: {shape} in proportion."
    )


def _table_controls(measured: Table) -> Iterator[tuple[str, list[float]]]:
    """The baselines that the lattice holds and that were measured, by seed."""
    from services.table.lattice import find

    for entry in baselines():
        try:
            records = measured.records(find(entry.name).name)
        except ValueError:
            continue
        if losses := [record.loss for record in records if record.loss is not None]:
            yield entry.name, losses
