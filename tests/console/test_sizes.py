"""Trainings of a run's candidates at other sizes."""

import pytest

from services.chassis.errors import NotFound, NotPossible
from services.console.commands.sizes import record_named
from services.contracts import candidate_pb2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("c9", "no candidate is called 'c9'"),
        ("Net", "2 candidates are called Net: give an id"),
        ("c1", "c1 has no program"),
    ],
)
def test_a_candidate_that_cannot_be_trained_again_is_refused_with_the_reason(name: str, sentence: str) -> None:
    """All three were told that some number of candidates has a program."""
    records = [candidate_pb2.Candidate(id=id_, proposal=candidate_pb2.Proposal(name="Net")) for id_ in ("c1", "c2")]
    with pytest.raises((NotFound, NotPossible), match=sentence):
        record_named(records, name)
