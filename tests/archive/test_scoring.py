"""Fitness of records against the baselines of their run."""

import pytest

from services.archive.scoring import score
from services.contracts import candidate_pb2 as pb
from services.domain.fitness import LOSS, STANDARDISED_GAIN
from tests.judge.judge_fixtures import trained


def with_second_seed(record: pb.Candidate, loss: float) -> pb.Candidate:
    """The candidate with another seed."""
    second = record.training.seeds.add()
    second.CopyFrom(record.training.seeds[0])
    shift = loss - second.loss
    second.seed, second.loss = 2, loss
    second.block_losses[:] = [block + shift for block in second.block_losses]
    record.training.loss = (record.training.seeds[0].loss + loss) / 2
    return record


def test_a_gain_is_taken_over_the_seeds_in_common() -> None:
    """The second seed is worse for every baseline. It would count for a candidate that was not trained with it."""
    root = with_second_seed(trained(1, 1.50, "delta_net"), 1.60)
    others = [
        with_second_seed(trained(2, 1.45, "gated_delta_net"), 1.56),
        with_second_seed(trained(3, 1.4, "gla"), 1.5),
    ]
    value = score(STANDARDISED_GAIN, trained(9, 1.47), None, root, frozenset({LOSS}), [root, *others])

    assert value is not None
    assert value.terms[0].gain == pytest.approx(0.03)
    assert value.interval.low < value.value < value.interval.high
