"""Cognition.Search over real gRPC, and entries that users add while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from services.analyst.cognition import CorpusError, add, read
from services.analyst.library import CognitionService, Library
from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.contracts import cognition_pb2 as pb
from services.contracts import cognition_pb2_grpc
from tests.serving import serving

QUERY = "Loss on distant tokens stays high while nearby tokens are predicted well."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where users' entries go."""
    return tmp_path / "cognition"


@pytest_asyncio.fixture
async def stub(folder: Path) -> AsyncIterator[cognition_pb2_grpc.CognitionAsyncStub]:
    """A client of a server as the analyst runs it."""
    service = cognition_pb2_grpc.add_CognitionServicer_to_server, CognitionService(Library(folder, 0.2))
    async with serving(service) as address, channel(address, ServiceSettings()) as connection:
        yield cognition_pb2_grpc.CognitionStub(connection)


def half_copied(folder: Path) -> None:
    """A file that cannot be parsed."""
    folder.mkdir()
    (folder / "half.toml").write_text("[[paper")


async def test_three_entries_best_first_by_default(stub: cognition_pb2_grpc.CognitionAsyncStub) -> None:
    """The paper's top 3, with all five fields."""
    reply = await stub.Search(pb.SearchRequest(query=QUERY, threshold=0.0), timeout=30)
    more = await stub.Search(pb.SearchRequest(query=QUERY, threshold=0.0, count=50), timeout=30)

    assert len(reply.entries) == 3
    assert len(more.entries) == 50
    assert list(more.entries[:3]) == list(reply.entries)
    assert reply.embedder.startswith("corpus-")
    assert all(entry.title and entry.arxiv and entry.design_insight and entry.guidance for entry in reply.entries)
    assert [entry.similarity for entry in more.entries] == sorted(
        (entry.similarity for entry in more.entries), reverse=True
    )


async def test_the_threshold_of_the_settings_is_the_default(stub: cognition_pb2_grpc.CognitionAsyncStub) -> None:
    """Irrelevant entries would be read as advice."""
    reply = await stub.Search(pb.SearchRequest(query=QUERY, count=50), timeout=30)

    assert reply.entries
    assert all(entry.similarity >= 0.2 for entry in reply.entries)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (pb.SearchRequest(query="  "), "query"),
        (pb.SearchRequest(query=QUERY, count=51), "count"),
        (pb.SearchRequest(query=QUERY, embedding=[0.0, 0.0], embedder="openai:small"), "openai:small"),
        (pb.SearchRequest(query=QUERY, threshold=1.5), "threshold"),
        (pb.SearchRequest(query=QUERY, threshold=float("nan")), "threshold"),
    ],
)
async def test_bad_requests_are_refused_by_the_name_of_the_field(
    stub: cognition_pb2_grpc.CognitionAsyncStub, request_: pb.SearchRequest, named: str
) -> None:
    """INVALID_ARGUMENT: asking again will not help."""
    with pytest.raises(grpc.aio.AioRpcError, match=named) as refused:
        await stub.Search(request_, timeout=30)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_entries_added_while_it_runs_are_found(
    stub: cognition_pb2_grpc.CognitionAsyncStub, folder: Path, tmp_path: Path, paper_text: str
) -> None:
    """`asi-arch cognition add` needs no restart."""
    request = pb.SearchRequest(query=QUERY, count=5)
    before = await stub.Search(request, timeout=30)
    (tmp_path / "mine.toml").write_text(paper_text)
    add(read(tmp_path / "mine.toml"), folder)
    after = await stub.Search(request, timeout=30)

    assert "2402.00001" not in {entry.arxiv for entry in before.entries}
    assert after.entries[0].id == "2402.00001#first-idea"
    assert after.embedder != before.embedder


async def test_a_broken_file_does_not_end_the_service(
    stub: cognition_pb2_grpc.CognitionAsyncStub, folder: Path
) -> None:
    """It may be incomplete because it is being copied."""
    before = await stub.Search(pb.SearchRequest(query=QUERY), timeout=30)
    half_copied(folder)

    assert await stub.Search(pb.SearchRequest(query=QUERY), timeout=30) == before


async def test_a_broken_file_is_reported_at_the_start(folder: Path) -> None:
    """At the start a person can repair it."""
    half_copied(folder)

    with pytest.raises(CorpusError, match=r"half\.toml"):
        await Library(folder, 0.2).index()
