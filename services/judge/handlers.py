"""Handles trained candidates: waits for baselines, obtains the verdict, computes the fitness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

from services.archive.records import Runs, record_with_sources
from services.archive.scoring import benchmark_of, loss_of, program_of, score, stage_scale, terms_of
from services.chassis.errors import NotYet, Rejected
from services.chassis.events import first, follow
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, checker_pb2, checker_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain import fitness
from services.domain.fitness import DEFAULT, JUDGE, STANDARDISED_GAIN, Investigation, Suspicion
from services.domain.zoo import baselines as zoo
from services.judge.judges import Case, Judge, OfflineJudge, Opinion, root_opinion

SERVICE = "judge"
ANCHOR_NAME = next(baseline.name for baseline in zoo() if baseline.role == "anchor")
RETRY_SECONDS = 2.0  # until a candidate that waits for a baseline is redelivered
WAITING = "the baselines that this candidate is compared with are not measured yet"
Choose = Callable[[str, Job | None], Awaitable[Judge]]  # from a run's mind to its judge
NO_MODEL = " No model was asked: the candidate is a baseline, or not the best proposal so far."


class JudgeHandler:
    """Handles `candidate.trained`."""

    def __init__(
        self, archive: archive_pb2_grpc.ArchiveAsyncStub, checker: checker_pb2_grpc.CheckerAsyncStub, judge: Choose
    ) -> None:
        self._archive = archive
        self.runs = Runs(archive)
        self._checker = checker
        self._judge = judge

    async def handle(self, job: Job) -> Sequence[events_pb2.Event]:
        """`candidate.judged`, and `candidate.rescored` for baselines that were scored before all were measured.

        Raises Rejected if the root was rejected, or the loss is due to a leak.
        """
        known = await record_with_sources(self._archive, job)
        if known is None:
            return []
        record, sources = known
        case = await case_of(self._archive, self.runs, record, sources)
        await self._check_leakage(case)
        event = follow(job.cause, "judged", SERVICE, job.attempt, record.id)
        event.candidate_judged.verdict.CopyFrom(await self.verdict(case, job))
        return [*_rescored(case, job), event]

    async def verdict(self, case: Case, job: Job | None) -> pb.Verdict:
        """The verdict on a case; without a job, for a calibration. Missing values are absent, with the reason."""
        terms = terms_of(case.settings)
        opinion = await self._opinion(case, job, JUDGE in terms)
        verdict = pb.Verdict(
            raw=opinion.raw,
            spread=opinion.spread,
            justification=opinion.justification,
            judge=opinion.judge,
            baseline=case.root.id,
            baseline_loss=loss_of(case.root),
            baseline_benchmark=benchmark_of(case.root),
            absent_because=opinion.absent_because,
        )
        if opinion.scores is not None:
            verdict.scores.CopyFrom(pb.SubScores(**asdict(opinion.scores)))
        _add_fitness(verdict, case, opinion.raw, terms)
        return verdict

    async def _opinion(self, case: Case, job: Job | None, enabled: bool) -> Opinion:
        """The opinion; fixed at 5 for the root, except in a calibration."""
        if not enabled:
            return Opinion(None, None, "", "", absent_because="the run is without judge")
        if job is not None and case.record.id == case.root.id:
            return root_opinion()
        if job is not None and not await self._opinion_counts(case):
            return await OfflineJudge(NO_MODEL).judge(case)
        return await (await self._judge(case.settings.mind, job)).judge(case)

    async def _opinion_counts(self, case: Case) -> bool:
        """Whether a model's opinion is needed: it is part of the fitness, or the candidate is the run's best proposal.

        The standardised gain does not depend on it. In the recorded run, a model's score correlates little with losses,
        and its sub-score for performance repeats the loss in its prompt (measured in tests/judge), so it does not
        improve selection. The reasons for the best proposals are used in later prompts; those for baselines are not.
        """
        if (case.settings.fitness or DEFAULT) != STANDARDISED_GAIN:
            return True
        if case.record.kind == pb.KIND_BASELINE:
            return False
        try:
            value = score(STANDARDISED_GAIN, case.record, None, case.root, terms_of(case.settings), case.baselines)
        except ValueError:
            return False
        if value is None or value.value <= 0:
            return False
        request = archive_pb2.GetPoolRequest(run=case.record.run)
        members = (await self._archive.GetPool(request, timeout=30)).members
        return all(value.value > member.fitness for member in members)

    async def _check_leakage(self, case: Case) -> None:
        """Raise Rejected with evidence if the loss is implausibly low under the run's policy. Baselines are exempt."""
        loss, root_loss = loss_of(case.record), loss_of(case.root)
        if case.record.kind == pb.KIND_BASELINE or loss is None or root_loss is None:
            return
        losses = [other for baseline in case.baselines if (other := loss_of(baseline)) is not None]
        suspicion = fitness.suspicion(loss, root_loss, losses)
        if not suspicion.suspected:
            return
        investigation = await self._investigation(case)
        repeated = other_text = None
        if investigation.HasField("repeated_loss") and investigation.HasField("repeated_root_loss"):
            repeated = investigation.repeated_root_loss - investigation.repeated_loss
        if investigation.HasField("other_text_loss") and investigation.HasField("other_text_root_loss"):
            other_text = investigation.other_text_root_loss - investigation.other_text_loss
        failed = tuple(f"{verdict.probe}: {verdict.message}" for verdict in investigation.failed)
        gain = case.root.training.loss - suspicion.loss
        findings = Investigation(failed, gain, repeated, other_text)
        reason = fitness.fault(fitness.leakage_policy(case.settings.policies.leakage), findings)
        if reason is not None:
            raise _leak(case.record, suspicion, reason, findings)

    async def _investigation(self, case: Case) -> pb.Investigation:
        """The engineer's investigation of the loss; if the root was not measured then, the probes are run here."""
        if case.record.training.HasField("investigation"):
            return case.record.training.investigation
        request = checker_pb2.CheckRequest(
            program=program_of(case.record),
            stage=case.record.stage,
            scale_overrides=case.settings.scale_overrides,
            thorough=True,
        )
        report = await self._checker.Check(request, timeout=300)
        return pb.Investigation(failed=[verdict for verdict in report.verdicts if verdict.outcome == "fail"])


async def case_of(
    archive: archive_pb2_grpc.ArchiveAsyncStub,
    runs: Runs,
    record: pb.Candidate,
    sources: Sequence[pb.Candidate] | None = None,
) -> Case:
    """The candidate and the records that it is compared with; its parent and references are read if not given.

    Raises Rejected if the root was rejected, and NotYet while the root or the anchor is not measured. Only
    baselines requested earlier are waited for, which avoids a deadlock.
    """
    settings = await runs.settings(record.run)
    own = [record] if record.request.baseline else []  # the record of the event is newer than the cached one
    known = (*await runs.baselines(record.run, record.stage), *own)
    baselines = {baseline.request.baseline: baseline for baseline in known}
    root, anchor = baselines.get(settings.baselines[0]), baselines.get(ANCHOR_NAME)
    number = record.request.number
    waits_for_anchor = anchor is not None and anchor.request.number < number and not _has_ended(anchor)
    if root is not None and root.state == pb.STATE_REJECTED:
        raise Rejected("judge", f"the root {settings.baselines[0]} was rejected: there is nothing to compare with")
    if root is None or not _is_measured(root) or waits_for_anchor:
        raise NotYet(WAITING, RETRY_SECONDS)
    if sources is None:
        request = archive_pb2.GetCandidatesRequest(run=record.run, candidates=[record.id], sources=True)
        sources = (await archive.GetCandidates(request, timeout=30)).candidates[1:]
    earlier = [baseline for baseline in baselines.values() if baseline.request.number < number]
    relatives = (*filter(_is_measured, earlier), *sources)
    comparable = anchor if anchor is not None and _is_measured(anchor) and record.id != root.id else None
    return Case(record, root, comparable, relatives, tuple(baselines.values()), settings)


def _add_fitness(verdict: pb.Verdict, case: Case, raw: float | None, terms: frozenset[str]) -> None:
    version = case.settings.fitness or DEFAULT
    try:
        value = score(version, case.record, raw, case.root, terms, case.baselines)
    except ValueError as error:
        verdict.absent_because = f"the fitness is absent: {error}"
        return
    if value is not None:
        verdict.fitness.CopyFrom(value)
    elif version == STANDARDISED_GAIN and stage_scale(case.root, case.baselines, terms) is None:
        verdict.absent_because = "the fitness is absent: the noise of the loss is unknown; train baselines with 2 seeds"
    elif not verdict.absent_because:
        verdict.absent_because = "the fitness is absent: not all of its terms were measured"


def _rescored(case: Case, job: Job) -> list[events_pb2.Event]:
    """New values for baselines that were judged before all baselines of the stage were measured."""
    names = {baseline.request.baseline for baseline in case.baselines if _has_ended(baseline)}
    if (case.settings.fitness or DEFAULT) != STANDARDISED_GAIN or not names.issuperset(case.settings.baselines):
        return []
    terms = terms_of(case.settings)
    scale = stage_scale(case.root, case.baselines, terms)
    current = {name: (term.noise, scale.weights.get(name, 0.0)) for name, term in scale.terms.items()} if scale else {}
    events = []
    for baseline in case.baselines:
        previous = {term.name: (term.noise, term.weight) for term in baseline.verdict.fitness.terms}
        if baseline.id == case.record.id or not previous or previous == current:
            continue
        value = score(STANDARDISED_GAIN, baseline, None, case.root, terms, case.baselines)
        if value is None:
            continue
        event = first(baseline.run, f"{baseline.id}.rescored.{case.record.id}", SERVICE, job.attempt)
        event.candidate = baseline.id
        event.candidate_rescored.fitness.CopyFrom(value)
        event.candidate_rescored.reason = "all baselines of the stage are measured"
        events.append(event)
    return events


def _leak(record: pb.Candidate, suspicion: Suspicion, reason: str, findings: Investigation) -> Rejected:
    return Rejected(
        "judge",
        f"loss {suspicion.loss:.4f} is below {suspicion.floor:.4f}, more than 10% under the best honest one: {reason}",
        {
            "loss": suspicion.loss,
            "reference": suspicion.reference,
            "floor": suspicion.floor,
            "failed_probes": list(findings.failed_probes),
            "repeated_gain": findings.repeated_gain,
            "other_text_gain": findings.other_text_gain,
            "stopped": [seed.stopped for seed in record.training.seeds if seed.HasField("stopped")],
        },
    )


def _is_measured(record: pb.Candidate) -> bool:
    return record.training.HasField("loss")


def _has_ended(record: pb.Candidate) -> bool:
    return _is_measured(record) or record.state == pb.STATE_REJECTED
