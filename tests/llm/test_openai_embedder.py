"""Embeddings over real HTTP."""

import logging

import pytest

from services.chassis.errors import SettingsError, Transient
from services.llm.openai_embedder import OpenAIEmbedder
from services.llm.scripted import ScriptedEndpoint
from services.llm.settings import EmbeddingSettings, MindSettings
from tests.llm.scripted_minds import KEY, script, settings


def with_embedding(url: str, dimension: int | None = None) -> MindSettings:
    chosen = EmbeddingSettings(endpoint="e0", model="m", dimension=dimension)
    return settings(url).model_copy(update={"embedding": chosen})


async def test_texts_become_named_unit_vectors_in_order_and_in_batches() -> None:
    """Callers pair by position, also beyond one batch."""
    texts = [f"{'gate ' * (n % 3 + 1)}{n}" for n in range(70)]
    async with ScriptedEndpoint(script()) as server:
        embedder = OpenAIEmbedder(with_embedding(server.base_url))
        vectors = await embedder.embed(texts)
        (again,) = await embedder.embed([texts[69]])
        await embedder.close()

    assert (embedder.name, again.values.size, len(server.received)) == ("openai:m", 26, 3)
    assert vectors[69].values @ again.values == pytest.approx(1.0)


async def test_another_dimension_than_promised_is_a_mistake_in_the_settings() -> None:
    """It would break every comparison with stored vectors."""
    async with ScriptedEndpoint(script()) as server:
        embedder = OpenAIEmbedder(with_embedding(server.base_url, dimension=8))
        with pytest.raises(SettingsError, match=r"embedding\.dimension"):
            await embedder.embed(["gate"])
        await embedder.close()


async def test_an_endpoint_out_of_reach_is_transient() -> None:
    """The event comes again."""
    async with ScriptedEndpoint(script()) as server:
        url = server.base_url
    embedder = OpenAIEmbedder(with_embedding(url))
    with pytest.raises(Transient, match="the endpoint returned no embeddings: the connection failed"):
        await embedder.embed(["gate"])
    await embedder.close()


async def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Not even where the client library tells everything, and a text that holds it is embedded without it."""
    caplog.set_level(logging.DEBUG)
    async with ScriptedEndpoint(script()) as server:
        embedder = OpenAIEmbedder(with_embedding(server.base_url))
        await embedder.embed([f"a log that holds {KEY}"])
        await embedder.close()

    assert KEY in server.received[0].headers["authorization"]
    assert KEY not in server.received[0].body + caplog.text
