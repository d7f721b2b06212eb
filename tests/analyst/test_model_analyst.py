"""A language model's analysis is taken when its numbers are the record's, and the offline one otherwise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import JsonValue

from services.analyst.model_analyst import ModelAnalyst, description_of
from services.analyst.offline_analyst import NAME, OfflineAnalyst
from services.contracts import candidate_pb2 as pb
from services.llm.scripted import ScriptedEndpoint, Step
from tests.analyst.analyst_records import CHILD, PARENT, ROOT, dossier
from tests.llm.scripted_minds import scripted_mind

PROSE = "The short convolution helps to find what was seen just before."
GIVEN = dossier(CHILD, root=ROOT, parent=PARENT)


def answer(results: str) -> dict[str, JsonValue]:
    """A whole analysis with these results."""
    parts = ("design_evaluation", "expectation", "explanation", "synthesis")
    ideas: JsonValue = [{"text": "a convolution before the memory", "origin": "cognition", "source": "2406.06484#x"}]
    tags: JsonValue = ["Short_Conv", "delta-rule", "warp-drive"]
    return {**dict.fromkeys(parts, PROSE), "results": results, "components": tags, "ideas": ideas}


@asynccontextmanager
async def analyst(*steps: Step) -> AsyncIterator[tuple[ModelAnalyst, ScriptedEndpoint]]:
    """An analyst before a scripted endpoint."""
    async with scripted_mind(*steps) as (mind, endpoint):
        yield ModelAnalyst(mind, OfflineAnalyst()), endpoint


async def test_an_analysis_of_the_record_is_taken() -> None:
    """With its tags, those outside the vocabulary too, and the origin of each idea."""
    results = "Its loss of 1.4000 is 0.0500 below its parent's 1.4500, and 3.4% lower."
    async with analyst(Step(answer=answer(results))) as (thinking, endpoint):
        analysis = await thinking.analyse(GIVEN)

    assert analysis.results == results
    assert list(analysis.components) == ["short-convolution", "delta-rule", "warp-drive"]
    assert [(idea.origin, idea.source) for idea in analysis.ideas] == [("cognition", "2406.06484#x")]
    assert analysis.analyst == "openai:scripted-model, analyse-8"
    assert len(endpoint.received) == 1


async def test_an_invented_number_is_reported_once_for_correction() -> None:
    """The second turn names the number."""
    wrong, right = Step(answer=answer("Its loss fell to 1.2345.")), Step(answer=answer("Its loss fell to 1.400."))
    async with analyst(wrong, right) as (thinking, endpoint):
        analysis = await thinking.analyse(GIVEN)

    assert analysis.results == "Its loss fell to 1.400."
    assert "1.2345, which the record does not hold" in endpoint.received[1].body


async def test_a_number_that_stays_invented_is_never_published() -> None:
    """The offline analysis is used, and gives the reason."""
    async with analyst(Step(answer=answer("Its loss fell to 1.2345."), times=5)) as (thinking, endpoint):
        analysis = await thinking.analyse(GIVEN)

    assert "1.2345" not in analysis.results
    assert "Against its parent Parent" in analysis.results
    assert analysis.analyst.startswith(NAME)
    assert "cited 1.2345, which the record does not hold" in analysis.analyst
    assert len(endpoint.received) == 2


async def test_a_model_that_declines_leaves_the_offline_analysis() -> None:
    """A failure of the analyst does not lose the candidate."""
    async with analyst(Step(fault="refusal", message="I would rather not", times=9)) as (thinking, _):
        analysis = await thinking.analyse(GIVEN)

    assert analysis.analyst.startswith(f"{NAME}, after openai:scripted-model was not usable")
    assert analysis.results


def test_missing_measurements_are_not_shown_to_a_model() -> None:
    """A zero would be explained as if it were a result."""
    assert description_of(pb.Candidate(id="c000009", proposal=pb.Proposal(name="Unknown"))) == "Unknown (c000009)"


def test_the_curve_is_shown_by_quarters() -> None:
    """How a loss fell says more of a mechanism than where it ended."""
    record = pb.Candidate(id="c1", proposal=pb.Proposal(name="X"))
    seed = record.training.seeds.add(seed=1)
    seed.curve.extend(pb.CurvePoint(step=10 * number, train_loss=5.0 - number / 4) for number in range(1, 9))

    assert "training loss 4.500 at step 20, 4.000 at step 40, 3.500 at step 60, 3.000 at step 80" in description_of(
        record
    )
