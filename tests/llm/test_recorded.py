"""A recorded run is answered from its record, and a fork asks an endpoint only from there on."""

from pathlib import Path

import pytest

from services.archive.artifacts import FsspecArtifacts
from services.contracts import candidate_pb2 as pb
from services.llm.port import AnswerInvalid, MindError, MindRefused, NotRecorded, Request, Role
from services.llm.recorded import CallRecord, RecordedMind, rewarded_model, to_message
from services.llm.scripted import Script, Step
from tests.llm.scripted_minds import GOOD, KEY, Idea, question, script, served


async def record(tmp_path: Path, plays: Script, *requests: Request[Idea]) -> tuple[CallRecord, pb.Candidate]:
    """Ask each request at a scripted endpoint, and keep what a candidate's record would."""
    artifacts = FsspecArtifacts(tmp_path.as_uri())
    candidate = pb.Candidate(id="c1", run="r1")
    async with served(plays) as (_, mind):
        for request in requests:
            try:
                calls = (await mind.ask(request)).calls
            except MindError as error:
                calls = error.calls
            candidate.calls.extend([await to_message(call, artifacts) for call in calls])
    kept = CallRecord(artifacts)
    for call in candidate.calls:
        kept.add(candidate.id, call)
    return kept, candidate


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_recorded_run_gives_the_same_answers_without_an_endpoint(tmp_path: Path) -> None:
    """Faults and repairs on the way included; the replay costs nothing."""
    plays = script(
        Step(fault="server_error"), Step(answer="?"), Step(answer=GOOD), Step(answer={**GOOD, "name": "Two"})
    )
    exchanges, _ = await record(tmp_path, plays, question("one"), question("two"))
    mind = RecordedMind(exchanges, "r1")
    first, second = await mind.ask(question("one")), await mind.ask(question("two"))

    assert (first.answer.name, second.answer.name) == ("GatedThing", "Two")
    assert [call.price for call in first.calls] == [0.0]


async def test_the_same_question_asked_on_purpose_has_its_own_answers(tmp_path: Path) -> None:
    """A judge that is asked three times."""
    steps = [Step(answer={**GOOD, "name": name}) for name in "abc"]
    exchanges, _ = await record(tmp_path, script(*steps), *(question(ordinal=n) for n in range(3)))
    mind = RecordedMind(exchanges, "r1")

    assert [(await mind.ask(question(ordinal=n))).answer.name for n in (2, 0, 1)] == ["c", "a", "b"]


async def test_an_unrecorded_question_is_an_error_in_a_replay(tmp_path: Path) -> None:
    """One question more than was asked, or another candidate's."""
    exchanges, _ = await record(tmp_path, script(), question("one"))
    mind = RecordedMind(exchanges, "r1")
    await mind.ask(question("one"))
    for other in (question("two"), question("one", candidate="c2")):
        with pytest.raises(NotRecorded, match="run r1 has no answer to propose"):
            await mind.ask(other)


async def test_a_prompt_with_other_measurements_gets_the_answer_of_its_place(tmp_path: Path) -> None:
    """Speed and memory are measured anew in every run, and prompts show them."""
    exchanges, _ = await record(tmp_path, script(), question("one, 12,345 tokens/s"))

    answered = await RecordedMind(exchanges, "r1").ask(question("one, 12,401 tokens/s"))
    assert answered.answer.name == "GatedThing"


async def test_a_fork_asks_the_endpoint_only_for_what_is_new(tmp_path: Path) -> None:
    """Recorded answers do not change."""
    exchanges, _ = await record(tmp_path, script(), question("one"))
    async with served(script(otherwise=Step(answer={**GOOD, "name": "New"}))) as (server, endpoint):
        mind = RecordedMind(exchanges, "r1", fallback=endpoint)
        old, new = await mind.ask(question("one")), await mind.ask(question("new"))

    assert (old.answer.name, new.answer.name, len(server.received)) == ("GatedThing", "New", 1)
    assert mind.name == "recorded:r1, then openai:model-e0"


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Step(fault="refusal"), MindRefused),
        (Step(answer="no"), AnswerInvalid),
        (Step(fault="truncated"), AnswerInvalid),
    ],
)
async def test_a_recorded_failure_happens_again(tmp_path: Path, step: Step, error: type[MindError]) -> None:
    """The run went on from it, so the replay must too."""
    exchanges, _ = await record(tmp_path, script(otherwise=step), question())

    with pytest.raises(error) as caught:
        await RecordedMind(exchanges, "r1").ask(question())
    assert len(caught.value.calls) == 1


async def test_the_record_holds_the_model_to_reward_and_no_key(tmp_path: Path) -> None:
    """And the artifacts hold prompt and answer."""
    _, candidate = await record(tmp_path, script(Step(fault="rate_limit")), question(f"with {KEY}"))
    written = everything_below(tmp_path)

    assert rewarded_model(candidate.calls, Role.PROPOSE) == "model-e0"
    assert rewarded_model(candidate.calls, Role.SCORE) is None
    assert [call.error for call in candidate.calls] == ["rate_limited", ""]
    assert b"GatedThing" in written
    assert KEY.encode() not in written
