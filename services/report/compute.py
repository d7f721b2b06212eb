"""The compute of a run, the effect of early stopping, and discoveries against compute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from services.archive.scoring import curves_of, is_comparable
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.curves import MIN_COMPARED, MINIMUM_FINISHED, StoppingReplay, replay_quantiles, replay_stopping
from services.domain.scaling import Control, DiscoveryScaling, discovery_scaling, strongest_control
from services.domain.zoo import baseline, baselines, is_reference
from services.report.rows import ABSENT, bounds, by_number, kind_name, seconds_of

if TYPE_CHECKING:
    from services.table import Table


def costs(status: archive_pb2.RunStatus, records: Sequence[pb.Candidate]) -> dict[str, object]:
    """Dollars are None without any price."""
    calls: defaultdict[str, list[pb.Call]] = defaultdict(list)
    seconds: defaultdict[str, float] = defaultdict(float)
    for record in records:
        seconds[kind_name(record.kind)] += seconds_of(record)
        for verification in record.verifications:
            seconds["verification"] += seconds_of(verification)
        for call in record.calls:
            calls[call.role].append(call)
    if (unused := status.spent.training_seconds - sum(seconds.values())) > 0.1:
        seconds["without result"] = unused
    priced = not calls or any(call.HasField("price") for role_calls in calls.values() for call in role_calls)
    spent = status.spent
    archived = (record for record in records if record.state == pb.STATE_ARCHIVED)
    accepted = sum(record.kind == pb.KIND_PROPOSAL for record in archived)
    confirmed = [record.discovery.effect for record in records if record.discovery.confirmed]
    money = spent.money if priced else None
    return {"run": status.run, "wall_seconds": spent.seconds, "training_seconds": spent.training_seconds,
            "gpu_seconds": spent.gpu_seconds, "flops": spent.flops, "tokens": spent.tokens,
            "dollars": money, "training_seconds_by_kind": dict(seconds),
            "minds_by_role": {role: _cost_of(role_calls) for role, role_calls in sorted(calls.items())},
            "drafts": drafts(records),
            "per_accepted_proposal": _per(accepted, spent, money),
            "per_confirmed_discovery": {**_per(len(confirmed), spent, money),
                                        "gain": fmean(confirmed) if confirmed else None},
            }  # fmt: skip


def drafts(records: Sequence[pb.Candidate]) -> dict[str, dict[str, float | int]]:
    """Drafts by version of the prompt, or by mind without a prompt.

    For each: requested proposals, first drafts that passed, and drafts refused as repeats or by checks.
    """
    outcomes: defaultdict[str, list[tuple[bool, Sequence[str]]]] = defaultdict(list)
    for record in records:
        if record.kind != pb.KIND_PROPOSAL:
            continue
        listed = record.rejection.evidence.fields.get("refused")  # if it was rejected without a proposal
        unproposed = [] if listed is None else [str(reason.string_value) for reason in listed.list_value.values]
        refused = [*record.proposal.novelty_history, *unproposed]
        if record.HasField("proposal") or refused:
            versions = [call.prompt_version for call in record.calls if call.role == "propose" and call.prompt_version]
            version = record.proposal.prompt_version or next(reversed(versions), "") or record.proposal.mind or ABSENT
            outcomes[version].append((record.HasField("proposal") and not refused, refused))
    rows: dict[str, dict[str, float | int]] = {}
    for version, outcomes_of_version in sorted(outcomes.items()):
        passed = sum(passed_first for passed_first, _ in outcomes_of_version)
        refusals = [sentence for _, sentences in outcomes_of_version for sentence in sentences]
        failed = sum(sentence.startswith("the check fails") for sentence in refusals)
        rows[version] = {
            "asked": len(outcomes_of_version), "passed_at_first": passed, "rate": passed / len(outcomes_of_version),
            "repeats": len(refusals) - failed, "failed_checks": failed,
        }  # fmt: skip
    return rows


def _per(count: int, spent: archive_pb2.Spent, money: float | None) -> dict[str, float | None]:
    """The resources of the run per result, for `count` results; None without any."""

    def share(amount: float | None) -> float | None:
        return amount / count if count and amount is not None else None

    shares = {"training_seconds": spent.training_seconds, "tokens": spent.tokens, "dollars": money}
    return {"count": count, **{name: share(amount) for name, amount in shares.items()}}


def _cost_of(calls: Sequence[pb.Call]) -> dict[str, float | None]:
    prices = [call.reserved_price or call.price for call in calls if call.HasField("price") or call.reserved_price]
    tokens = sum(call.reserved_tokens or call.prompt_tokens + call.completion_tokens for call in calls)
    return {"calls": len(calls), "tokens": tokens, "dollars": sum(prices) if prices else None}


FRACTIONS = (0.25, 0.4, 0.5, 0.6, 0.75)
SHARE_OF_FINALISTS = 4
MAX_FINALISTS = 10


@dataclass(frozen=True)
class Replayed:
    """One rule of early stopping and its effect; ``fraction`` is None for quantiles, which judge at several places."""

    fraction: float | None
    trainings: int
    replay: StoppingReplay


def replays(records: Sequence[pb.Candidate]) -> list[Replayed]:
    """The rules over the whole trainings of a run in their order; empty if there are too few."""
    complete = [curve for curve in curves_of(by_number(records)) if curve.final is not None]
    if len(complete) <= MINIMUM_FINISHED:
        return []
    finalists = min(MAX_FINALISTS, max(1, len(complete) // SHARE_OF_FINALISTS))
    quantiles = [Replayed(None, len(complete), replay_quantiles(complete, finalists))]
    extrapolation = [Replayed(at, len(complete), replay_stopping(complete, at, finalists)) for at in FRACTIONS]
    return (quantiles if len(complete) > MIN_COMPARED else []) + extrapolation


def stopped_in_the_run(records: Sequence[pb.Candidate]) -> str:
    """The effect of the run's own rule in a sentence; empty if it stopped nothing."""
    curves = curves_of(records)
    stopped = [curve for curve in curves if curve.final is None]
    if not stopped:
        return ""
    saved = sum(1 - curve.progress for curve in stopped) / len(curves)
    return f"The run itself stopped {len(stopped)} of {len(curves)} trainings, which saved {saved:.1%} of the steps."


def too_few(records: Sequence[pb.Candidate]) -> str:
    """The reason why there is no replay."""
    count = sum(curve.final is not None for curve in curves_of(records))
    return f"{count} whole trainings with a curve; a regression needs {MINIMUM_FINISHED} earlier ones to stop one"


def replay_row(replayed: Replayed) -> dict[str, object]:
    """A replay as JSON; `saved` is a share of all steps."""
    replay = replayed.replay
    return {
        "rule": "quantiles" if replayed.fraction is None else "extrapolation",
        "stopped_at": replayed.fraction, "trainings": replayed.trainings, "stopped": len(replay.stopped),
        "saved": replay.saved, "finalists": len(replay.finalists), "finalists_lost": len(replay.lost),
    }  # fmt: skip


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


def of_run(run: str, records: Sequence[pb.Candidate], against: str = "") -> ScalingResult:
    """From the search of a run; its compute includes controls. Raises ValueError if the noise is unknown.

    Losses on other text or in another precision than the first control's are not compared.
    """
    ordered = by_number(records)
    baseline_records = [
        record
        for record in ordered
        if record.kind == pb.KIND_BASELINE and record.training.seeds and not is_reference(record.request.baseline)
    ]
    if not baseline_records:
        raise ValueError(f"no baseline of run {run} was trained, with which candidates could be compared")
    first = baseline_records[0]
    controls = {
        record.request.baseline: [seed.loss for seed in record.training.seeds]
        for record in baseline_records
        if is_comparable(record, first)
    }
    if all(len(losses) < 2 for losses in controls.values()):
        raise ValueError(
            f"each baseline of run {run} was trained with one seed, which shows no noise; see run --baseline-seeds 2"
        )
    control = strongest_control(controls, against or None)
    trained = [
        record for record in ordered if record.training.seeds and record.kind in (pb.KIND_PROPOSAL, pb.KIND_BASELINE)
    ]
    work = []
    for record in trained:
        losses = [seed.loss for seed in record.training.seeds]
        competes = record.kind == pb.KIND_PROPOSAL and is_comparable(record, first)
        better = competes and control.is_beaten(fmean(losses), len(losses))
        work.append((seconds_of(record) / HOUR, better))
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


def scaling_row(result: ScalingResult) -> dict[str, object]:
    """As JSON; the exponent is null for too few successes."""
    control, fit = result.control, result.scaling
    low, high = bounds(fit.exponent_interval)
    return {
        "source": result.source, "unit": result.unit, "candidates": result.candidates, "better": fit.successes,
        "control": control.name, "control_loss": control.loss, "margin": control.reach(),
        "seed_deviation": control.noise.deviation, "spent": sum(fit.totals),
        "rate": fit.rate, "rate_low": fit.rate_interval.low, "rate_high": fit.rate_interval.high,
        "exponent": fit.exponent, "exponent_low": low, "exponent_high": high, "points": fit.runs,
    }  # fmt: skip


def scaling_text(result: ScalingResult) -> str:
    control, fit = result.control, result.scaling
    text = (
        f"{result.source}: {fit.successes} of {result.candidates} candidates are better than the control "
        f"{baseline(control.name).title} ({control.loss:.4f}) by more than {control.reach():.4f} nats, more than noise "
        f"explains (deviation {control.noise.deviation:.4f}); {fit.rate:.3g} per {result.unit} "
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
