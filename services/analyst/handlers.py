"""Handles judged candidates: gathers relatives, searches the literature, writes the analysis."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from services.analyst.cognition import Knowledge
from services.analyst.cognition.search import Hit
from services.analyst.comparison import Dossier, task_changes
from services.analyst.library import Library
from services.analyst.offline_analyst import components_of
from services.archive.records import Runs, record_with_relatives
from services.archive.scoring import loss_gain
from services.chassis.events import follow
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.components import FORM
from services.llm.embedder import Vector
from services.llm.openai_embedder import Embed
from services.llm.port import BudgetExhausted

MAX_PER_CANDIDATE = 2
SERVICE = "analyst"
SIBLINGS = 3


class Analysing(Protocol):
    """Writes analyses."""

    async def analyse(self, dossier: Dossier) -> pb.Analysis:
        """The five parts, components and origins."""


Choose = Callable[[str, Job], Awaitable[Analysing]]  # from the name of a run's mind to its analyst


class AnalystHandler:
    """Handles `candidate.judged`."""

    def __init__(
        self, archive: archive_pb2_grpc.ArchiveAsyncStub, library: Library, embed: Embed, analysing: Choose
    ) -> None:
        self._archive = archive
        self._runs = Runs(archive)
        self._library = library
        self._embed = embed
        self._analysing = analysing

    async def handle(self, job: Job) -> Sequence[events_pb2.Event]:
        """The event `candidate.analysed`, and `ablation.wanted` if the run has a budget for ablations."""
        relatives = await record_with_relatives(self._archive, job, SIBLINGS)
        if relatives is None:
            return []
        dossier = await dossier_of(
            relatives, self._runs, self._library, lambda query, mind: self._embed(query, mind, job)
        )
        record = dossier.record
        if dossier.settings.ablations.without_analysis:
            analysis = pb.Analysis(components=components_of(record), ideas=record.proposal.ideas)
        else:
            analysis = await (await self._analysing(dossier.settings.mind, job)).analyse(dossier)
        event = follow(job.cause, "analysed", SERVICE, job.attempt, record.id)
        event.candidate_analysed.analysis.CopyFrom(analysis)
        return [*ablations_wanted(job, record, components_to_ablate(dossier)), event]


def components_to_ablate(dossier: Dossier) -> list[str]:
    """The components to ablate: those that the parent lacks, if the proposal is better than the root with confidence.

    The store keeps the run's budget of ablations; none are requested without one.
    """
    record, root = dossier.record, dossier.root
    if record.kind != pb.KIND_PROPOSAL or root is None or not dossier.settings.policies.ablations:
        return []
    gain = loss_gain(record, root)
    if gain is None or gain.low <= 0:
        return []
    inherited = set(dossier.parent.proposal.components if dossier.parent is not None else ()) | FORM
    return [component for component in record.proposal.components if component not in inherited][:MAX_PER_CANDIDATE]


def ablations_wanted(job: Job, record: pb.Candidate, components: list[str]) -> list[events_pb2.Event]:
    """The events `ablation.wanted`; a redelivery gives the same ids."""
    events = []
    for component in components:
        event = follow(job.cause, "wanted", SERVICE, 1, record.id, suffix=component)
        reason = "the candidate is better than the root, and its parent does not have this component"
        event.ablation_wanted.CopyFrom(events_pb2.AblationWanted(component=component, reason=reason))
        events.append(event)
    return events


async def dossier_of(
    relatives: archive_pb2.RelativesReply,
    runs: Runs,
    library: Library,
    embed: Callable[[str, str], Awaitable[Vector | None]],
) -> Dossier:
    """The data of the analysis of a candidate with its relatives, from the current archive.

    `embed` may give the vector of a query, with the run's mind; without budget the search is by text.
    """
    record = relatives.record
    settings = await runs.settings(record.run)
    baselines = await runs.baselines(record.run, record.stage)
    best = await runs.best(record.run, record.stage)
    if record.training.HasField("loss") and (best is None or record.training.loss < best.training.loss):
        best = record
    parent = relatives.parent if relatives.HasField("parent") else None
    hits, sources = tuple[Hit, ...](), list[Knowledge | None]()
    if not settings.ablations.without_cognition:
        query, vector = symptoms(record, parent), None
        with contextlib.suppress(BudgetExhausted):  # the analysis goes on without a vector
            vector = await embed(query, settings.mind)
        hits = (await library.search(query, vector=vector)).hits
        named = dict.fromkeys(idea.source for idea in record.proposal.ideas if idea.origin == "cognition")
        sources = [await library.entry(name) for name in named]
    judged_by = next((baseline for baseline in baselines if baseline.id == record.verdict.baseline), None)
    first = next((known for known in baselines if known.request.baseline in settings.baselines[:1]), None)
    root = judged_by or first
    apart = {record.id, root.id if root is not None else ""}
    return Dossier(
        record=record,
        root=root,
        baselines=tuple(
            baseline for baseline in baselines if baseline.id not in apart and baseline.training.HasField("loss")
        ),
        parent=parent,
        grandparent=relatives.grandparent if relatives.HasField("grandparent") else None,
        siblings=tuple(relatives.siblings),
        hits=hits,
        settings=settings,
        best=best,
        sources=tuple(source for source in sources if source is not None),
    )


def symptoms(record: pb.Candidate, parent: pb.Candidate | None) -> str:
    """A query for trigger patterns: the motivation, components, and tasks that became worse than the parent's."""
    parts = [record.proposal.motivation or record.proposal.name, " ".join(record.proposal.components)]
    changes = [] if parent is None else task_changes(record, parent)
    worse = [
        change.task
        for change in changes
        if change.now < change.before and change.difference.certain(among=len(changes))
    ]
    parts += [f"weak at {', '.join(sorted(worse))}"] if worse else []
    return " ".join(parts)
