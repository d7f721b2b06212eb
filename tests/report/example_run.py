"""A finished run in memory: controls and candidates with curves, second trainings, verdicts and ablations."""

import random

from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb

ZOO = ("delta_net", "gated_delta_net", "delta_net_value_skip")
FRESH = (1001, 1002, 1003)
BLOCKS = 32


def status() -> archive_pb2.RunStatus:
    """A run of scale tiny that promoted by halving and is over."""
    about = archive_pb2.RunStatus(run="r1", phase="finished")
    about.settings.scale, about.settings.promotion = "tiny", "halving"
    about.settings.baselines.extend(ZOO)
    return about


def training(loss: float, seeds: tuple[int, ...], rng: random.Random) -> pb.Training:
    """Every seed with a curve, block losses around its loss, and what it cost."""
    record = pb.Training(loss=loss, benchmark=0.4)
    for seed in seeds:
        result = record.seeds.add(seed=seed, loss=loss + 0.001 * seed / 1000)
        result.measurements.CopyFrom(pb.Measurements(seconds=90.0, parameters=400_000, tokens=600_000))
        result.block_losses.extend(loss + rng.gauss(0, 0.01) for _ in range(BLOCKS))
        for step in range(1, 21):
            result.curve.add(step=step * 10, train_loss=loss + 2 * 0.8**step + rng.gauss(0, 0.01))
    return record


def finished_run(confirmed: int = 1, refuted: int = 1, proposals: int = 12) -> list[pb.Candidate]:
    """Three controls and `proposals` candidates, of which the first ones were verified."""
    rng = random.Random(7)
    records = [_candidate(number, 1.5 - 0.01 * number, rng) for number in range(1, 4 + proposals)]
    for control in records[:3]:
        control.verifications.add(stage="tiny", rung=1).training.CopyFrom(training(1.4, FRESH, rng))
    for index, record in enumerate(records[3 : 3 + confirmed + refuted]):
        holds = index < confirmed
        loss = 1.35 - 0.001 * index if holds else 1.42
        record.verifications.add(stage="tiny", rung=1).training.CopyFrom(training(loss, FRESH, rng))
        record.discovery.CopyFrom(_verdict(holds, 1.4 - loss, proposals))
    return records


def ablation(of: pb.Candidate, component: str, rise: float, number: int) -> pb.Candidate:
    """The same blocks, all of them worse by `rise`."""
    candidate = pb.Candidate(
        id=f"a{number:06d}", run="r1", kind=pb.KIND_ABLATION, state=pb.STATE_ARCHIVED, stage="tiny"
    )
    candidate.request.CopyFrom(pb.Request(number=number, ablation_of=of.id, without_component=component))
    candidate.training.CopyFrom(of.training)
    candidate.training.loss += rise
    for seed in candidate.training.seeds:
        seed.loss += rise
        worse = [loss + rise + 0.001 * (index % 3) for index, loss in enumerate(seed.block_losses)]
        del seed.block_losses[:]
        seed.block_losses.extend(worse)
    return candidate


def _candidate(number: int, loss: float, rng: random.Random) -> pb.Candidate:
    control = number <= len(ZOO)
    record = pb.Candidate(
        id=f"c{number:06d}", run="r1", stage="tiny", state=pb.STATE_ARCHIVED,
        kind=pb.KIND_BASELINE if control else pb.KIND_PROPOSAL,
        request=pb.Request(number=number, baseline=ZOO[number - 1] if control else "", seeds=[1]),
        proposal=pb.Proposal(name=f"Net{number}", parent="" if control else "c000001", motivation="Because.",
                             components=["short-convolution", "chunkwise-form", "output-gate"]),
        training=training(loss, (1, 2) if control else (1,), rng),
    )  # fmt: skip
    record.verdict.CopyFrom(pb.Verdict(baseline="c000001", fitness=pb.Fitness(value=2 - loss)))
    return record


def _verdict(holds: bool, effect: float, tried: int) -> pb.Discovery:
    return pb.Discovery(
        confirmed=holds, outcome="confirmed" if holds else "refuted", stage="tiny", control="c000002",
        controls=["c000001", "c000002", "c000003"], effect=effect, tried=tried, seeds=FRESH, reason="as measured",
        interval=pb.Interval(low=effect - 0.01, high=effect + 0.01, level=0.95), p_value=0.001, adjusted_p_value=0.02,
    )  # fmt: skip
