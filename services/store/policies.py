"""A run's settings as the policy that steers it."""

from functools import lru_cache

from services.archive.policies import validate_policies, values_of
from services.contracts import candidate_pb2, events_pb2
from services.domain.ladder_settings import climb_of
from services.domain.pool import PoolPolicy
from services.domain.promotion import Result
from services.domain.run_state import Budget, RunPolicy


def policy_of(settings: events_pb2.RunSettings) -> RunPolicy:
    """The run's policy as its settings say; ValueError names an impossible one."""
    return _policy_of(settings.SerializeToString(deterministic=True))


@lru_cache(maxsize=64)  # asked for at every event, and the same for all events of a run
def _policy_of(body: bytes) -> RunPolicy:
    settings = events_pb2.RunSettings.FromString(body)
    budget, pool = settings.budget, settings.pool
    validate_policies(settings.policies)
    climb = climb_of(settings.promotion, values_of(settings.policies), settings.scale, dict(settings.scale_overrides))
    return RunPolicy(
        seats=settings.seats or 1,
        budget=Budget(**{field.name: value for field, value in budget.ListFields()}),
        baselines=tuple(settings.baselines),
        seed=settings.seed,
        candidate_seeds=settings.candidate_seeds or 1,
        baseline_seeds=settings.baseline_seeds or 1,
        promotion=climb.promotion,
        stages=climb.stages,
        discovery=climb.discovery,
        ablations=climb.ablations,
        pool=PoolPolicy(pool.size, pool.parents, pool.references, pool.cold_start, pool.batch)
        if settings.HasField("pool")
        else PoolPolicy(),
    )


def promotable(candidate: str, training: candidate_pb2.Training, fitness: float | None) -> Result | None:
    """What promotion reads of a training; None without a loss."""
    if not training.seeds or not training.HasField("loss"):
        return None
    measured = training.seeds[0].measurements
    return Result(
        candidate=candidate,
        fitness=fitness,
        loss=training.loss,
        benchmark=training.benchmark if training.HasField("benchmark") else None,
        parameters=measured.parameters or None,
        flops=measured.flops_per_token if measured.HasField("flops_per_token") else None,
    )
