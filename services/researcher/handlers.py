"""What the researcher does with a seat: seeds → context → draft → is it new? → is it sound? → candidate.proposed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from services.archive.records import Runs, record_for
from services.chassis.errors import Rejected
from services.chassis.events import follow, struct
from services.chassis.worker import Job
from services.contracts import (
    archive_pb2,
    archive_pb2_grpc,
    checker_pb2,
    checker_pb2_grpc,
    cognition_pb2_grpc,
    events_pb2,
)
from services.contracts import candidate_pb2 as pb
from services.domain.structure import fingerprint
from services.domain.zoo import baseline
from services.llm.embedder import Vector
from services.llm.openai_embedder import Embed, MotivationEmbedder
from services.llm.port import OFFLINE
from services.researcher.draft import (
    Context,
    Draft,
    Proposer,
    Refusal,
    entries_for,
    neighbours,
    with_board,
    with_measured,
)
from services.researcher.offline.proposer import SURROGATE, describes

SERVICE = "researcher"
MAX_REPEATS = 10
MAX_REWRITES = 10
CHECK_SECONDS = 120.0
MAX_DRAFTED = 256  # programs that are remembered until the archive surely holds them
PROGRAM_BYTES = 96 * 1024  # an event must stay below 256 KiB

Choose = Callable[[str, Job], Awaitable[Proposer]]  # from a run's mind to who proposes for it


@dataclass(frozen=True)
class _SoundDraft:
    """A draft that is new and sound."""

    draft: Draft
    report: pb.CheckReport
    vector: Vector  # of its motivation
    structure: str  # the digest of its program
    neighbours: Sequence[pb.Neighbour] = ()

    def likeness(self) -> float:
        """Of its nearest earlier program, 0 to 1: of several drafts, the one that is least alike is kept."""
        return max((neighbour.similarity for neighbour in self.neighbours if neighbour.of == "program"), default=0.0)


class Researcher:
    """Handles `candidate.requested`."""

    def __init__(
        self,
        archive: archive_pb2_grpc.ArchiveAsyncStub,
        checker: checker_pb2_grpc.CheckerAsyncStub,
        cognition: cognition_pb2_grpc.CognitionAsyncStub,
        spaces: MotivationEmbedder,
        embed: Embed,
        proposer: Choose,
    ) -> None:
        self._archive = archive
        self._runs = Runs(archive)
        self._checker = checker
        self._cognition = cognition
        self._spaces = spaces
        self._embed = embed
        self._proposer = proposer
        self._drafted: dict[tuple[str, str], str] = {}  # candidates by run and structure of their program, oldest first

    async def handle(self, job: Job) -> Sequence[events_pb2.Event]:
        """The event `candidate.proposed`. A seat for which nothing new and sound was found is Rejected."""
        record = await record_for(self._archive, job)
        if record is None:
            return []
        settings = await self._runs.settings(record.run)
        if record.HasField("proposal"):
            proposal = await self._given(record, settings, job)
        elif record.request.baseline:
            proposal = await self._baseline(record, settings, job)
        elif record.request.ablation_of:
            proposal = await self._ablation(record, settings, job)
        else:
            proposal = await self._proposal(await self.context(record, settings, job), job)
        event = follow(job.cause, "proposed", SERVICE, job.attempt, record.id)
        event.candidate_proposed.CopyFrom(events_pb2.CandidateProposed(proposal=proposal, stage=record.stage))
        return [event]

    async def context(self, record: pb.Candidate, settings: events_pb2.RunSettings, job: Job) -> Context:
        """What this seat may see. Rejected where no baseline was measured: seats are given out after all of them."""
        request = archive_pb2.DrawSeedsRequest(run=record.run, candidate=record.id)
        drawn = await self._archive.DrawSeeds(request, timeout=30)
        if not drawn.HasField("parent"):
            raise Rejected("propose", "no baseline of this run was measured: there is no parent to draw")
        context = Context(
            record=record,
            parent=drawn.parent,
            references=tuple(drawn.references),
            rejections=tuple(drawn.recent_rejections),
            history=tuple(drawn.history),
            entries=await entries_for(
                self._cognition, drawn.parent, settings, lambda query: self._embed(query, settings.mind, job)
            ),
            settings=settings,
        )
        if settings.mind not in ("", OFFLINE):
            return await with_board(context, self._archive, self._checker)
        surrogate = settings.policies.search == SURROGATE
        return await with_measured(context, self._archive) if surrogate else context

    async def _baseline(self, record: pb.Candidate, settings: events_pb2.RunSettings, job: Job) -> pb.Proposal:
        """A program of the zoo, checked like any other. The upper reference may cost what it costs."""
        try:
            known = baseline(record.request.baseline)
        except ValueError as error:
            raise Rejected("propose", str(error)) from None
        draft = Draft(known.title, f"{known.description} ({known.source})", known.program, known.components, mind="zoo")
        report = await self._check(draft, record, settings, exempt_from_cost=known.role == "reference")
        if not report.passed:
            raise Rejected("check", failure_of(report), {"verdicts": [verdict.message for verdict in failed(report)]})
        vector = await self._spaces.motivation(draft.motivation, await self._space(record), settings.mind, job)
        return _message(_SoundDraft(draft, report, vector, fingerprint(draft.program).digest), [])

    async def _given(self, record: pb.Candidate, settings: events_pb2.RunSettings, job: Job) -> pb.Proposal:
        """A program that was given by hand, as baselines and seeds may be: it is checked and left as it is."""
        given = record.proposal
        report = await self._check(Draft(given.name, given.motivation, given.program), record, settings)
        if not report.passed:
            raise Rejected("check", failure_of(report), {"verdicts": [verdict.message for verdict in failed(report)]})
        given.check.CopyFrom(report)
        given.structure = fingerprint(given.program).digest
        if given.motivation:
            vector = await self._spaces.motivation(given.motivation, await self._space(record), settings.mind, job)
            given.embedder = vector.embedder
            given.motivation_embedding[:] = vector.values
        return given

    async def _ablation(self, record: pb.Candidate, settings: events_pb2.RunSettings, job: Job) -> pb.Proposal:
        """Another candidate without one component. Novelty is not asked for: it may well be what was there before."""
        request = archive_pb2.GetCandidateRequest(run=record.run, candidate=record.request.ablation_of)
        original = await self._archive.GetCandidate(request, timeout=30)
        proposer = await self._proposer("offline" if describes(original) else settings.mind, job)
        refusals: list[Refusal] = []
        while True:
            draft = await proposer.without(original, record, refusals)
            report = await self._check(draft, record, settings)
            if report.passed:
                break
            refusals.append(Refusal("check", draft, failure_of(report), tuple(failed(report))))
            _must_not_be_used_up(refusals)
        vector = await self._spaces.motivation(draft.motivation, original.proposal.embedder, settings.mind, job)
        proposal = _message(_SoundDraft(draft, report, vector, fingerprint(draft.program).digest), [])
        proposal.parent = original.id
        return proposal

    async def _proposal(self, context: Context, job: Job) -> pb.Proposal:
        """Draft until one is new and sound; where the run asks for the best of several, until there are so many.

        Raises Rejected with the history when the tries are used up and nothing was found.
        """
        proposer, refusals = await self._proposer(context.settings.mind, job), list[Refusal]()
        sound_drafts = list[_SoundDraft]()
        try:
            while len(sound_drafts) < max(1, context.settings.ablations.best_of):
                await self._try(proposer, context, refusals, sound_drafts, job)
        except Rejected:
            if not sound_drafts:
                raise
        finally:
            self._release(context.record, min(sound_drafts, key=_SoundDraft.likeness, default=None))
        best = min(sound_drafts, key=_SoundDraft.likeness)
        return _message(best, [refusal for refusal in refusals if refusal.kind != "drawn"], context)

    async def _try(
        self, proposer: Proposer, context: Context, refusals: list[Refusal], sound_drafts: list[_SoundDraft], job: Job
    ) -> None:
        """One draft, which ends among the refusals or is found. Raises Rejected when the tries are used up."""
        draft = await proposer.propose(context, refusals)
        space = context.parent.proposal.embedder
        vector = await self._spaces.motivation(draft.motivation, space, context.settings.mind, job)
        near = await neighbours(self._archive, context.record, draft.program, vector)
        nearest = {candidate.id: candidate for candidate in _candidates((*near.motivations, *near.programs[:1]))}
        repeat = _repeated(near) or await proposer.repeats(context, draft, list(nearest.values()))
        repeated = _named(repeat, _candidates((*near.programs, *near.motivations)))
        if repeat := repeat or self._drafted_beside(context.record, near.structure):
            refusals.append(Refusal("repeat", draft, repeat, repeats=repeated))
        else:
            report = await self._check(draft, context.record, context.settings)
            if report.passed:
                sound_drafts.append(_SoundDraft(draft, report, vector, near.structure, _neighbours(near)))
                refusals.append(Refusal("drawn", draft, "drawn already for this seat, which takes the best of several"))
            else:
                refusals.append(Refusal("check", draft, failure_of(report), tuple(failed(report))))
        _must_not_be_used_up(refusals)

    def _drafted_beside(self, record: pb.Candidate, structure: str) -> str:
        """Which other seat has drafted this very program, in a sentence; else empty, and the program is this seat's.

        Seats that are asked at the same moment may be answered alike, and the archive knows of a draft only later.
        """
        if not structure:
            return ""
        first = self._drafted.setdefault((record.run, structure), record.id)
        if len(self._drafted) > MAX_DRAFTED:
            del self._drafted[next(iter(self._drafted))]
        return "" if first == record.id else f"the program repeats what the seat of {first} has just drafted"

    def _release(self, record: pb.Candidate, kept: _SoundDraft | None) -> None:
        """Leave to other seats what this one has drafted and does not propose."""
        own = [key for key, first in self._drafted.items() if (key[0], first) == (record.run, record.id)]
        for run, structure in own:
            if kept is None or structure != kept.structure:
                del self._drafted[run, structure]

    async def _check(
        self, draft: Draft, record: pb.Candidate, settings: events_pb2.RunSettings, exempt_from_cost: bool = False
    ) -> pb.CheckReport:
        if len(draft.program.encode()) > PROGRAM_BYTES:
            raise Rejected("propose", f"the program has more than {PROGRAM_BYTES} bytes: write it shorter")
        request = checker_pb2.CheckRequest(
            program=draft.program,
            stage=record.stage,
            scale_overrides=settings.scale_overrides,
            exempt_from_cost=exempt_from_cost,
        )
        return await self._checker.Check(request, timeout=CHECK_SECONDS)

    async def _space(self, record: pb.Candidate) -> str:
        """The embedder of what the run measured first; empty where nothing is measured yet."""
        known = await self._runs.baselines(record.run, record.stage)
        return next((baseline.proposal.embedder for baseline in known if baseline.proposal.embedder), "")


def _message(sound: _SoundDraft, refusals: Sequence[Refusal], context: Context | None = None) -> pb.Proposal:
    draft = sound.draft
    return pb.Proposal(
        name=draft.name,
        motivation=draft.motivation,
        program=draft.program,
        parent=draft.parent or (context.parent.id if context else ""),
        references=[reference.id for reference in context.references] if context else [],
        components=draft.components,
        ideas=draft.ideas,
        description=struct(draft.description) if draft.description else None,
        moves=draft.moves,
        motivation_embedding=sound.vector.values,
        embedder=sound.vector.embedder,
        structure=sound.structure,
        nearest=sound.neighbours,
        novelty_history=[refusal.sentence for refusal in refusals],
        check=sound.report,
        mind=draft.mind,
        memory=draft.memory,
        prompt_version=draft.prompt_version,
        cognition=[
            pb.CognitionHit(entry=entry.id, similarity=entry.similarity, title=entry.title)
            for entry in (context.entries if context else ())
        ],
    )


def _repeated(near: archive_pb2.NeighboursReply) -> str:
    """What a program repeats to the letter, in a sentence; empty where it does not."""
    same = next((program.candidate for program in near.programs if program.same_structure), None)
    return "" if same is None else f"the program repeats {same.proposal.name} ({same.id}) up to names and layout"


def _named(sentence: str, known: Sequence[pb.Candidate]) -> tuple[pb.Candidate, ...]:
    """The candidate of which a sentence says that a draft repeats it: by its id, else by name, else the nearest."""
    if not sentence:
        return ()
    by_id = [candidate for candidate in known if candidate.id in sentence]
    by_name = [candidate for candidate in known if candidate.proposal.name in sentence]
    return tuple((by_id or by_name or known)[:1])


def _candidates(near: Iterable[archive_pb2.NearCandidate]) -> list[pb.Candidate]:
    return [neighbour.candidate for neighbour in near]


def _neighbours(near: archive_pb2.NeighboursReply) -> list[pb.Neighbour]:
    """As the proposal keeps them: motivations, then programs."""
    kinds = (("motivation", near.motivations), ("program", near.programs))
    return [
        pb.Neighbour(candidate=neighbour.candidate.id, similarity=neighbour.similarity, of=kind)
        for kind, neighbours_of_kind in kinds
        for neighbour in neighbours_of_kind
    ]


def failed(report: pb.CheckReport) -> list[pb.ProbeVerdict]:
    """The verdicts that are fatal."""
    return [verdict for verdict in report.verdicts if verdict.outcome == "fail"]


def failure_of(report: pb.CheckReport) -> str:
    """The first fatal verdict in a sentence."""
    return next((f"the check fails: {first.probe}: {first.message}" for first in failed(report)), "the check fails")


def _must_not_be_used_up(refusals: Sequence[Refusal]) -> None:
    repeats = sum(refusal.kind == "repeat" for refusal in refusals)
    failures = sum(refusal.kind == "check" for refusal in refusals)
    if repeats >= MAX_REPEATS or failures >= MAX_REWRITES:
        stage = "propose" if repeats >= MAX_REPEATS else "check"
        raise Rejected(
            stage,
            f"no new and sound program in {len(refusals)} tries; the last: {refusals[-1].sentence}",
            {"refused": [refusal.sentence for refusal in refusals]},
        )
