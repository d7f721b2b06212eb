"""Which embedder is used, and that the vectors of two never meet."""

import pytest
from minds import KEY, script

from services.chassis.errors import SettingsError, Transient
from services.chassis.llm.embedder import LocalEmbedder
from services.chassis.llm.scripted import ScriptedEndpoint
from services.chassis.llm.spaces import Spaces, endpoint_embedder

DESCRIBED = {"ASI_EMBEDDING_MODEL": "small", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": KEY}


async def test_an_endpoint_that_is_described_embeds_without_a_mind_beside_it() -> None:
    """A run that thinks offline may compare motivations by a model."""
    async with ScriptedEndpoint(script()) as server:
        embedder = endpoint_embedder(DESCRIBED | {"OPENAI_BASE_URL": server.base_url})
        assert embedder is not None
        (vector,) = await embedder.embed(["gate"])
        await embedder.close()

    assert vector.embedder == "openai:small"
    assert server.received[0].path.endswith("/embeddings")


@pytest.mark.parametrize("environment", [{}, {"ASI_EMBEDDER": "local"}, DESCRIBED | {"ASI_EMBEDDER": "local"}])
def test_nothing_is_asked_unless_an_endpoint_is_wanted_and_described(environment: dict[str, str]) -> None:
    """The default needs no network."""
    assert endpoint_embedder(environment) is None


@pytest.mark.parametrize(
    ("environment", "fix"),
    [({"ASI_EMBEDDER": "openai"}, "set ASI_EMBEDDING_MODEL"), ({"ASI_EMBEDDER": "bert"}, "choose local or openai")],
)
def test_an_impossible_choice_is_one_sentence_with_the_fix(environment: dict[str, str], fix: str) -> None:
    """At the start, not at the first candidate."""
    with pytest.raises(SettingsError, match=fix):
        endpoint_embedder(environment)


def test_a_run_goes_on_in_the_space_that_it_began_in() -> None:
    """Nearest motivations are found within one space only: another one would find nothing, and all would look new."""
    small, large = LocalEmbedder(64), LocalEmbedder(256)
    spaces = Spaces(large, small)

    assert spaces.of("") is large
    assert spaces.of("hashed-64-v1") is small
    with pytest.raises(Transient, match=r"openai:small.*set ASI_EMBEDDER"):
        spaces.of("openai:small")
