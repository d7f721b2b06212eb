"""A model behind a scripted endpoint, its answers, and the handler that asks it."""

from contextlib import AbstractAsyncContextManager

from pydantic import JsonValue

from services.domain.zoo import baseline
from services.llm.budget import MemoryLedger
from services.llm.port import Mind
from services.llm.scripted import ScriptedEndpoint, Step
from services.researcher.model_proposer import ModelProposer
from tests.llm.scripted_minds import MemoryJournal, scripted_mind
from tests.researcher.researcher_fixtures import Archive, Neighbours, Seats, researcher, settings_of

GATED = baseline("gated_delta_net").program


MOTIVATION = "The parent cannot forget: a gate per head lets it drop what is old before it writes."


OTHER = "The parent has one scale only: two memories with decays of their own serve near and far context."


IS_NEW: JsonValue = {"repeat": False, "candidate": "", "reason": "nothing of the kind is there"}


IS_REPEAT: JsonValue = {"repeat": True, "candidate": "c000001", "reason": "it corrects what is stored, too"}


def proposal(**changes: JsonValue) -> dict[str, JsonValue]:
    """An answer with a whole program."""
    return {
        "name": "ForgetfulDeltaNet",
        "motivation": MOTIVATION,
        "components": ["Forget Gate", "delta_rule", "Warp  drive"],
        "memory": "fixed-state",
        "ideas": [{"text": "a forget gate", "origin": "cognition", "source": "e1"}],
        "edits": [],
        "program": GATED,
        **changes,
    }


def proposes(**changes: JsonValue) -> Step:
    return Step(contains="You design token mixers", answer=proposal(**changes))


def judged(answer: JsonValue, times: int = 1) -> Step:
    assert isinstance(answer, dict)
    return Step(contains="You decide whether", answer=answer, times=times)


def thinking(
    *steps: Step, ledger: MemoryLedger | None = None, journal: MemoryJournal | None = None
) -> AbstractAsyncContextManager[tuple[Mind, ScriptedEndpoint]]:
    """A mind before a scripted endpoint, which refuses everything else."""
    return scripted_mind(*steps, otherwise=Step(fault="bad_request"), ledger=ledger, journal=journal)


def seats(mind: Mind, neighbours: Neighbours | None = None) -> AbstractAsyncContextManager[Seats]:
    """The handler whose proposals come from this mind."""
    return researcher(neighbours or Neighbours(Archive(settings_of())), lambda: ModelProposer(mind))
