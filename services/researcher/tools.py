"""`python -m services.researcher.tools`: one proposal or one prompt without a run, for the command line.

    propose --parent C [--mind offline|openai] [--seed N]    a proposal that is new to the archive; it is not stored
    prompt ROLE --candidate C                                the prompt that would be sent

ROLE is propose (a child of the candidate) or judge_novelty (whether it repeats its nearest neighbours).
The archive is at ASI_ARCHIVE_ADDRESS, cognition at ASI_COGNITION_ADDRESS, if it is reachable.
Exit status: 0 for success, 1 for no result, 2 for invalid input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
import grpc.aio
from pydantic import BaseModel

from services.chassis import logs
from services.chassis.errors import NotPossible, Rejected
from services.chassis.rpc import channel
from services.chassis.settings import load
from services.contracts import archive_pb2, archive_pb2_grpc, checker_pb2_grpc, cognition_pb2, cognition_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.llm import prompts
from services.llm.budget import MemoryLedger
from services.llm.embedder import Vector
from services.llm.openai_embedder import OpenAIEmbedder, endpoint_embedder
from services.llm.openai_mind import OpenAIMind
from services.llm.port import Request, Role
from services.researcher.app import ResearcherSettings
from services.researcher.draft import NEIGHBOURS, Context, Draft, Proposer, Refusal, entries_for, with_board
from services.researcher.model_proposer import ModelProposer, novelty_request, propose_request
from services.researcher.offline_proposer import OfflineProposer

PREVIEW = "preview"  # the id of a seat outside a run
TRIES = 10
CHECKER = "ASI_CHECKER_ADDRESS"
"""Without this variable no checker is used."""


@dataclass(frozen=True)
class Services:
    """The services that the tools call. Without a reachable checker, prompts do not describe the scale."""

    archive: archive_pb2_grpc.ArchiveAsyncStub
    cognition: cognition_pb2_grpc.CognitionAsyncStub
    checker: checker_pb2_grpc.CheckerAsyncStub | None = None
    embedder: OpenAIEmbedder | None = None

    async def context(self, parent: pb.Candidate, seed: int | None = None) -> Context:
        settings = (await self.archive.GetRun(archive_pb2.RunRequest(run=parent.run), timeout=30)).settings
        if seed is not None:
            settings.seed = seed
        request = archive_pb2.DrawSeedsRequest(run=parent.run, candidate=PREVIEW)
        draw = await self.archive.DrawSeeds(request, timeout=30)
        record = pb.Candidate(id=PREVIEW, run=parent.run, stage=parent.stage)
        references = tuple(reference for reference in draw.references if reference.id != parent.id)
        entries: tuple[cognition_pb2.CognitionEntry, ...] = ()
        with suppress(grpc.aio.AioRpcError):  # the service may be unreachable
            entries = await entries_for(self.cognition, parent, settings, self._embedded)
        context = Context(
            record, parent, references, tuple(draw.recent_rejections), tuple(draw.history), entries, settings
        )
        return await with_board(context, self.archive, self.checker)

    async def motivations(self, record: pb.Candidate) -> list[archive_pb2.NearCandidate]:
        """The candidates with the nearest motivations. Raises NotPossible if the record's own is not embedded."""
        own = record.proposal
        if not own.motivation_embedding:
            raise NotPossible(f"candidate {record.id} has no embedded motivation to find neighbours by")
        request = archive_pb2.NearestMotivationsRequest(
            run=record.run,
            embedding=own.motivation_embedding,
            embedder=own.embedder,
            count=NEIGHBOURS,
            **{"except": record.id},
        )
        return list((await self.archive.NearestMotivations(request, timeout=30)).near)

    async def _embedded(self, query: str) -> Vector | None:
        return None if self.embedder is None else (await self.embedder.embed([query]))[0]


async def proposed(services: Services, proposer: Proposer, context: Context) -> Draft:
    """The first draft whose program is new to the archive. Raises Rejected after ten repeats."""
    refusals: list[Refusal] = []
    while len(refusals) < TRIES:
        draft = await proposer.propose(context, refusals)
        request = archive_pb2.NearestProgramsRequest(run=context.record.run, program=draft.program, count=NEIGHBOURS)
        near = await services.archive.NearestPrograms(request, timeout=30)
        same = next((neighbour.candidate for neighbour in near.near if neighbour.same_structure), None)
        if same is None:
            return draft
        refusals.append(Refusal("repeat", draft, f"the program repeats {same.proposal.name} ({same.id})"))
    raise Rejected("propose", f"{TRIES} drafts in a row repeat programs of the archive; choose another parent")


@asynccontextmanager
async def _proposer(mind: str) -> AsyncIterator[Proposer]:
    if mind == "offline":
        yield OfflineProposer()
        return
    async with OpenAIMind.from_environment(os.environ, MemoryLedger()) as model:
        yield ModelProposer(model)


@asynccontextmanager
async def _services(
    settings: ResearcherSettings, archive: archive_pb2_grpc.ArchiveAsyncStub
) -> AsyncIterator[Services]:
    async with (
        channel(settings.cognition_address, settings) as cognition,
        channel(settings.checker_address, settings) as checker,
    ):
        yield Services(
            archive,
            cognition_pb2_grpc.CognitionStub(cognition),
            checker_pb2_grpc.CheckerStub(checker) if CHECKER in os.environ else None,
            endpoint_embedder(os.environ),
        )


async def main(arguments: argparse.Namespace) -> str:
    settings = load(ResearcherSettings, "researcher")
    async with (
        channel(settings.archive_address, settings) as archive,
        _services(settings, archive_pb2_grpc.ArchiveStub(archive)) as services,
    ):
        request = archive_pb2.GetCandidateRequest(run=arguments.run, candidate=arguments.parent)
        parent = await services.archive.GetCandidate(request, timeout=30)
        context = await services.context(parent, arguments.seed)
        async with _proposer(arguments.mind) as proposer:
            return _shown(await proposed(services, proposer, context), parent, arguments.json)


def _shown(draft: Draft, parent: pb.Candidate, as_json: bool) -> str:
    fields = {
        "name": draft.name, "parent": parent.id, "motivation": draft.motivation, "moves": list(draft.moves),
        "components": list(draft.components), "mind": draft.mind, "program": draft.program,
    }  # fmt: skip
    if as_json:
        return json.dumps(fields, indent=2, ensure_ascii=False)
    title = f"{draft.name}, a child of {parent.proposal.name} ({parent.id}), by {draft.mind}"
    return f"{title}\n\n{draft.motivation}\n\n{draft.program.rstrip()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asi-arch", description="One proposal, without a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    propose = commands.add_parser("propose", help="a proposal that is new to the archive; it is not stored")
    propose.add_argument("--parent", required=True, metavar="C", help="id or name of the parent")
    propose.add_argument("--mind", choices=("offline", "openai"), default="offline")
    propose.add_argument("--seed", type=int, help="of the draw; default: the run's")
    propose.add_argument("--run", default="", help="default: the newest")
    propose.add_argument("--json", action="store_true")
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status. Errors are one sentence on standard error."""
    return prompts.print_result(main(_parser().parse_args(argv)))


async def question(
    settings: ResearcherSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    async with _services(settings, archive) as services:
        if role is Role.JUDGE_NOVELTY:
            near = [motivation.candidate for motivation in await services.motivations(record)]
            proposal = record.proposal
            return novelty_request(record, proposal.motivation, proposal.program, near)
        return propose_request(await services.context(record), ())


PROMPTS = (Role.PROPOSE, Role.JUDGE_NOVELTY)

if __name__ == "__main__":
    logs.configure_for_people("error")
    if sys.argv[1:2] == ["prompt"]:
        sys.exit(prompts.main("researcher", ResearcherSettings, PROMPTS, question, sys.argv[2:]))
    sys.exit(run())
