"""Handles a seat: seeds → context → draft → novelty → check → candidate.proposed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from services.archive.records import Runs, record_with_seeds
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
from services.domain.zoo import baseline, is_reference
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
from services.researcher.offline_proposer import MODELS, describes

SERVICE = "researcher"
MAX_REPEATS = 10
MAX_REWRITES = 10
CHECK_SECONDS = 300.0  # at the largest scales, on a busy machine
MAX_DRAFTED = 256  # drafts of other seats that are remembered, as the archive may not have them yet
PROGRAM_BYTES = 96 * 1024  # an event must stay below 256 KiB

ChooseProposer = Callable[[str, Job], Awaitable[Proposer]]  # by the name of a run's mind


@dataclass(frozen=True)
class _SoundDraft:
    """A draft that is new and passed the check."""

    draft: Draft
    report: pb.CheckReport
    vector: Vector  # of its motivation
    structure: str  # the digest of its program
    neighbours: Sequence[pb.Neighbour] = ()

    def similarity(self) -> float:
        """To the most similar earlier program, 0 to 1. Of several drafts, the least similar one is proposed."""
        return max((neighbour.similarity for neighbour in self.neighbours if neighbour.of == "program"), default=0.0)


@dataclass(eq=False)
class Researcher:
    """Handles `candidate.requested`."""

    archive: archive_pb2_grpc.ArchiveAsyncStub
    checker: checker_pb2_grpc.CheckerAsyncStub
    cognition: cognition_pb2_grpc.CognitionAsyncStub
    embedder: MotivationEmbedder
    embed: Embed
    proposer: ChooseProposer

    def __post_init__(self) -> None:
        self._runs = Runs(self.archive)
        self._drafted: dict[tuple[str, str], str] = {}  # candidate by run and program structure, oldest first

    async def handle(self, job: Job) -> Sequence[events_pb2.Event]:
        """The event `candidate.proposed`. Raises Rejected if no new and sound program is found."""
        drawn = await record_with_seeds(self.archive, job)
        if drawn is None:
            return []
        record = drawn.record
        settings = await self._runs.settings(record.run)
        if record.HasField("proposal"):
            proposal = await self._manual(record, settings, job)
        elif record.request.baseline:
            proposal = await self._baseline(record, settings, job)
        elif record.request.ablation_of:
            proposal = await self._ablation(record, settings, job)
        else:
            proposal = await self._proposal(await self.context(drawn, settings, job), job)
        event = follow(job.cause, "proposed", SERVICE, job.attempt, record.id)
        event.candidate_proposed.CopyFrom(events_pb2.CandidateProposed(proposal=proposal, stage=record.stage))
        return [event]

    async def context(self, drawn: archive_pb2.DrawSeedsReply, settings: events_pb2.RunSettings, job: Job) -> Context:
        """What this seat may use. Raises Rejected if no baseline was measured: seats follow all baselines."""
        if not drawn.HasField("parent"):
            raise Rejected("propose", "no baseline of this run was measured: there is no parent to draw")
        context = Context(
            record=drawn.record,
            parent=drawn.parent,
            references=tuple(drawn.references),
            rejections=tuple(drawn.recent_rejections),
            history=tuple(drawn.history),
            entries=await entries_for(
                self.cognition, drawn.parent, settings, lambda query: self.embed(query, settings.mind, job)
            ),
            settings=settings,
        )
        if settings.mind not in ("", OFFLINE):
            return await with_board(context, self.archive, self.checker)
        models = settings.policies.search in MODELS
        return await with_measured(context, self.archive) if models else context

    async def _baseline(self, record: pb.Candidate, settings: events_pb2.RunSettings, job: Job) -> pb.Proposal:
        """A program of the zoo, checked like any other; the upper reference is exempt from the limit on cost."""
        try:
            entry = baseline(record.request.baseline)
        except ValueError as error:
            raise Rejected("propose", str(error)) from None
        draft = Draft(entry.title, f"{entry.description} ({entry.source})", entry.program, entry.components, mind="zoo")
        report = await self._passed_check(draft, record, settings, exempt_from_cost=is_reference(entry.name))
        vector = await self.embedder.motivation(draft.motivation, await self._run_embedder(record), settings.mind, job)
        return _message(_SoundDraft(draft, report, vector, fingerprint(draft.program).digest), [])

    async def _manual(self, record: pb.Candidate, settings: events_pb2.RunSettings, job: Job) -> pb.Proposal:
        """A program that a user supplied, as a baseline or seed; it is checked and not modified."""
        proposal = record.proposal
        draft = Draft(proposal.name, proposal.motivation, proposal.program)
        report = await self._passed_check(draft, record, settings)
        proposal.check.CopyFrom(report)
        proposal.structure = fingerprint(proposal.program).digest
        if proposal.motivation:
            vector = await self.embedder.motivation(
                proposal.motivation, await self._run_embedder(record), settings.mind, job
            )
            proposal.embedder = vector.embedder
            proposal.motivation_embedding[:] = vector.values
        return proposal

    async def _ablation(self, record: pb.Candidate, settings: events_pb2.RunSettings, job: Job) -> pb.Proposal:
        """Another candidate without one component. It need not be new: it may equal the candidate's parent."""
        request = archive_pb2.GetCandidateRequest(run=record.run, candidate=record.request.ablation_of)
        original = await self.archive.GetCandidate(request, timeout=30)
        proposer = await self.proposer("offline" if describes(original) else settings.mind, job)
        refusals: list[Refusal] = []
        while True:
            draft = await proposer.without(original, record, refusals)
            report = await self._check(draft, record, settings)
            if report.passed:
                break
            refusals.append(Refusal("check", draft, failure_of(report), tuple(failed(report))))
            _require_tries_left(refusals)
        vector = await self.embedder.motivation(draft.motivation, original.proposal.embedder, settings.mind, job)
        proposal = _message(_SoundDraft(draft, report, vector, fingerprint(draft.program).digest), [])
        proposal.parent = original.id
        return proposal

    async def _proposal(self, context: Context, job: Job) -> pb.Proposal:
        """Propose the best of `best_of` new and sound drafts. Raises Rejected with the refusals if there is none."""
        proposer, refusals = await self.proposer(context.settings.mind, job), list[Refusal]()
        sound_drafts = list[_SoundDraft]()
        try:
            while len(sound_drafts) < max(1, context.settings.ablations.best_of):
                await self._add_draft(proposer, context, refusals, sound_drafts, job)
        except Rejected:
            if not sound_drafts:
                raise
        finally:
            self._release(context.record, min(sound_drafts, key=_SoundDraft.similarity, default=None))
        best = min(sound_drafts, key=_SoundDraft.similarity)
        return _message(best, [refusal for refusal in refusals if refusal.kind != "drawn"], context)

    async def _add_draft(
        self, proposer: Proposer, context: Context, refusals: list[Refusal], sound_drafts: list[_SoundDraft], job: Job
    ) -> None:
        """Make one draft, and add it to the refusals or the sound drafts. Raises Rejected after the last try."""
        record = context.record
        drafted = (key[1] for key, seat in self._drafted.items() if key[0] == record.run and seat != record.id)
        draft = await proposer.propose(replace(context, drafted=frozenset(drafted)), refusals)
        space = context.parent.proposal.embedder
        vector = await self.embedder.motivation(draft.motivation, space, context.settings.mind, job)
        near = await neighbours(self.archive, context.record, draft.program, vector)
        nearest = {candidate.id: candidate for candidate in _candidates((*near.motivations, *near.programs[:1]))}
        same = next((program.candidate for program in near.programs if program.same_structure), None)
        if same is None:
            repeat = await proposer.repeats(context, draft, list(nearest.values()))
        else:
            repeat = f"the program repeats {same.proposal.name} ({same.id}) up to names and layout"
        repeated = _repeated_candidate(repeat, _candidates((*near.programs, *near.motivations)))
        if repeat := repeat or self._concurrent_duplicate(context.record, near.structure):
            refusals.append(Refusal("repeat", draft, repeat, repeats=repeated))
        else:
            report = await self._check(draft, context.record, context.settings)
            if report.passed:
                sound_drafts.append(_SoundDraft(draft, report, vector, near.structure, _neighbours(near)))
                refusals.append(Refusal("drawn", draft, "drawn already for this seat, which takes the best of several"))
            else:
                refusals.append(Refusal("check", draft, failure_of(report), tuple(failed(report))))
        _require_tries_left(refusals)

    def _concurrent_duplicate(self, record: pb.Candidate, structure: str) -> str:
        """A sentence if another seat has drafted the same program; else empty, and the program is recorded.

        A model may give concurrent seats the same answer, and the archive receives a draft only later.
        """
        if not structure:
            return ""
        first = self._drafted.setdefault((record.run, structure), record.id)
        if len(self._drafted) > MAX_DRAFTED:
            del self._drafted[next(iter(self._drafted))]
        return "" if first == record.id else f"the program repeats what the seat of {first} has just drafted"

    def _release(self, record: pb.Candidate, proposed: _SoundDraft | None) -> None:
        """Forget the drafts of this seat that are not proposed, so that other seats may propose them."""
        own = [key for key, first in self._drafted.items() if (key[0], first) == (record.run, record.id)]
        for run, structure in own:
            if proposed is None or structure != proposed.structure:
                del self._drafted[run, structure]

    async def _passed_check(
        self, draft: Draft, record: pb.Candidate, settings: events_pb2.RunSettings, exempt_from_cost: bool = False
    ) -> pb.CheckReport:
        """The report of a program that nobody can rewrite. Raises Rejected if a probe fails."""
        report = await self._check(draft, record, settings, exempt_from_cost)
        if not report.passed:
            raise Rejected("check", failure_of(report), {"verdicts": [verdict.message for verdict in failed(report)]})
        return report

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
        return await self.checker.Check(request, timeout=CHECK_SECONDS)

    async def _run_embedder(self, record: pb.Candidate) -> str:
        """The embedder of the run's first measured baseline; empty if none is measured yet."""
        baselines = await self._runs.baselines(record.run, record.stage)
        return next((baseline.proposal.embedder for baseline in baselines if baseline.proposal.embedder), "")


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


def _repeated_candidate(sentence: str, candidates: Sequence[pb.Candidate]) -> tuple[pb.Candidate, ...]:
    """The candidate that a sentence names as repeated: by its id, else by name, else the nearest; none without one."""
    if not sentence:
        return ()
    by_id = [candidate for candidate in candidates if candidate.id in sentence]
    by_name = [candidate for candidate in candidates if candidate.proposal.name in sentence]
    return tuple((by_id or by_name or candidates)[:1])


def _candidates(near: Iterable[archive_pb2.NearCandidate]) -> list[pb.Candidate]:
    return [neighbour.candidate for neighbour in near]


def _neighbours(near: archive_pb2.NeighboursReply) -> list[pb.Neighbour]:
    """The neighbours as stored in a proposal: motivations, then programs."""
    kinds = (("motivation", near.motivations), ("program", near.programs))
    return [
        pb.Neighbour(candidate=neighbour.candidate.id, similarity=neighbour.similarity, of=kind)
        for kind, neighbours_of_kind in kinds
        for neighbour in neighbours_of_kind
    ]


def failed(report: pb.CheckReport) -> list[pb.ProbeVerdict]:
    return [verdict for verdict in report.verdicts if verdict.outcome == "fail"]


def failure_of(report: pb.CheckReport) -> str:
    return next((f"the check fails: {first.probe}: {first.message}" for first in failed(report)), "the check fails")


def _require_tries_left(refusals: Sequence[Refusal]) -> None:
    repeats = sum(refusal.kind == "repeat" for refusal in refusals)
    failures = sum(refusal.kind == "check" for refusal in refusals)
    if repeats >= MAX_REPEATS or failures >= MAX_REWRITES:
        stage = "propose" if repeats >= MAX_REPEATS else "check"
        raise Rejected(
            stage,
            f"no new and sound program in {len(refusals)} tries; the last: {refusals[-1].sentence}",
            {"refused": [refusal.sentence for refusal in refusals]},
        )
