# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The gRPC service Cognition: what the literature knows about what an experiment showed."""

from typing import Any

import grpc.aio
import numpy as np

from services.analyst.cognition.search import Hit
from services.analyst.library import Library
from services.contracts import cognition_pb2 as pb
from services.contracts import cognition_pb2_grpc
from services.llm.embedder import Vector


class CognitionService(cognition_pb2_grpc.CognitionServicer):
    """Empty queries, counts over 50 and embeddings without direction are INVALID_ARGUMENT."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def Search(self, request: pb.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.SearchReply:
        threshold = request.threshold if request.HasField("threshold") else None
        vector = Vector(request.embedder, np.array(request.embedding)) if request.embedding else None
        found = await self._library.search(request.query, request.count, threshold, vector)
        return pb.SearchReply(entries=[entry_message(hit) for hit in found.hits], embedder=found.embedder)


def entry_message(hit: Hit) -> pb.CognitionEntry:
    """An entry as the contracts carry it."""
    entry, paper = hit.knowledge.entry, hit.knowledge.paper
    return pb.CognitionEntry(
        id=hit.knowledge.id,
        title=paper.title,
        arxiv=paper.arxiv or "",
        year=paper.year,
        design_insight=entry.design_insight,
        trigger_patterns=entry.experimental_trigger_patterns,
        background=entry.background,
        innovation=entry.algorithmic_innovation,
        guidance=entry.implementation_guidance,
        components=entry.components,
        similarity=hit.similarity,
    )
