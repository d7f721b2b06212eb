"""Which failure the engineer's prompt is about."""

import pytest

from services.chassis.errors import NotPossible
from services.chassis.events import struct
from services.contracts import candidate_pb2 as pb
from services.engineer.revision import last_failure, revise_request


def test_the_last_of_several_failures_is_shown_with_what_was_repaired_before() -> None:
    """As the engineer itself tells it to the model."""
    record = pb.Candidate(id="c1", run="r1", proposal=pb.Proposal(program="first = 1\n"))
    record.training.revisions.add(program="first = 1\n", error="TypeError: one", repair="cast it")
    record.training.revisions.add(program="second = 2\n", error="TypeError: two", repair="cast it back")
    request = revise_request(record, last_failure(record))

    user = request.messages[1].text
    assert "second = 2" in user
    assert "TypeError: two" in user
    assert "- cast it" in user
    assert "cast it back" not in user


def test_a_rejection_in_training_is_a_failure() -> None:
    """Its evidence holds the error."""
    record = pb.Candidate(id="c1", proposal=pb.Proposal(program="first = 1\n"))
    record.rejection.CopyFrom(pb.Rejection(stage="train", reason="broken", evidence=struct({"error": "KeyError"})))

    assert last_failure(record).error == "KeyError"


def test_a_candidate_that_never_failed_gives_no_prompt() -> None:
    """An invented error would mislead the model."""
    with pytest.raises(NotPossible, match="has not failed in training"):
        last_failure(pb.Candidate(id="c1"))
