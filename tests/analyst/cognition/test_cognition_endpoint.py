"""The cognition base embedded by an endpoint, a scripted one over real HTTP."""

from pathlib import Path

import pytest

from services.analyst.library import Library
from services.chassis.errors import Transient
from services.llm.embedder import EmbedderMismatch, LocalEmbedder
from services.llm.openai_embedder import endpoint_embedder
from services.llm.scripted import Script, ScriptedEndpoint

QUERY = "Loss on distant tokens stays high while nearby tokens are predicted well."


async def test_entries_and_queries_are_embedded_by_the_endpoint(tmp_path: Path) -> None:
    """All entries are embedded once, in batches; a query is one more request, and none without its vector."""
    async with ScriptedEndpoint(Script()) as server:
        embedder = endpoint_embedder({"ASI_EMBEDDING_MODEL": "small", "OPENAI_BASE_URL": server.base_url})
        library = Library(tmp_path, embedder=embedder)
        built = await library.index()
        batches = len(server.received)
        result = await library.search(QUERY, vector=await library.embedded(QUERY))
        requests = len(server.received)
        by_text = await library.search(QUERY)
        assert embedder is not None
        await embedder.close()

    assert {vector.embedder for vector in built.vectors} == {"openai:small"}
    assert batches == -(-len(built.vectors) // 64)
    assert requests == batches + 1
    assert (len(result.hits), result.embedder) == (3, "openai:small")
    assert all(hit.similarity >= 0.5 for hit in result.hits)
    assert by_text.embedder.startswith("corpus-")
    assert len(server.received) == requests
    with pytest.raises(EmbedderMismatch):
        await built.search(QUERY, 3, 0.0, LocalEmbedder().vector(QUERY))


async def test_a_search_waits_for_an_unavailable_endpoint(tmp_path: Path) -> None:
    """An empty result would be taken for an answer."""
    async with ScriptedEndpoint(Script()) as server:
        url = server.base_url
    settings = tmp_path / "mind.toml"
    roles = "\n".join(
        f'[roles.{role}]\nmodels = ["m"]'
        for role in ("propose", "judge_novelty", "revise", "score", "analyse", "extract")
    )
    settings.write_text(f'[models.m]\nname = "m"\n{roles}\n[retry]\nattempts = 1\n[embedding]\nmodel = "small"\n')
    embedder = endpoint_embedder({"ASI_MIND_FILE": str(settings), "OPENAI_BASE_URL": url})
    library = Library(tmp_path / "own", embedder=embedder)
    with pytest.raises(Transient, match="the endpoint returned no embeddings: the connection failed"):
        await library.embedded(QUERY)
    with pytest.raises(Transient, match="the endpoint returned no embeddings: the connection failed"):
        await library.index()

    assert embedder is not None
    await embedder.close()
