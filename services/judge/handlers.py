"""What the judge does with a trained candidate: waits for what it is compared with, judges, computes the fitness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from services.archive.records import record_for
from services.archive.runs import Runs
from services.archive.scoring import benchmark_of, loss_of, score, terms_of
from services.chassis.errors import NotYet, Rejected
from services.chassis.events import follow
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, checker_pb2, checker_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.leakage import Suspicion, suspicion
from services.judge.case import Case, program_of
from services.judge.opinion import Judging, Opinion, by_definition

SERVICE = "judge"
ANCHOR = "gated_delta_net"
BASELINE_SECONDS = 1.0  # until a candidate that waits for a baseline is delivered again
ENDED = (pb.STATE_REJECTED,)
WAITING = "the baselines that this candidate is compared with are not measured yet"
Choose = Callable[[str, Job | None], Awaitable[Judging]]  # from a run's mind to who judges for it


class JudgeHandler:
    """Handles `candidate.trained`."""

    def __init__(
        self,
        archive: archive_pb2_grpc.ArchiveAsyncStub,
        checker: checker_pb2_grpc.CheckerAsyncStub,
        judging: Choose,
    ) -> None:
        self._archive = archive
        self._runs = Runs(archive)
        self._checker = checker
        self._judging = judging

    async def handle(self, job: Job) -> Sequence[events_pb2.Event]:
        """The event `candidate.judged`. Rejected when there is nothing to compare with, or the loss is a leak's."""
        record = await record_for(self._archive, job)
        if record is None:
            return []
        case = await self.case(record)
        await self._must_not_leak(case)
        event = follow(job.cause, "judged", SERVICE, job.attempt, record.id)
        event.candidate_judged.verdict.CopyFrom(await self.verdict(case, job))
        return [event]

    async def case(self, record: pb.Candidate) -> Case:
        """The candidate with what it is compared with.

        Raises Rejected when the root was, and NotYet while root or anchor are still to be measured. Only baselines
        asked for earlier are waited for, which avoids a deadlock.
        """
        settings = await self._runs.settings(record.run)
        known = await self._baselines(record)
        root, anchor = known.get(settings.baselines[0]), known.get(ANCHOR)
        if root is not None and root.state in ENDED:
            raise Rejected("judge", f"the root {settings.baselines[0]} was rejected: there is nothing to compare with")
        if root is None or not _measured(root) or _is_to_come(anchor, record):
            raise NotYet(WAITING, BASELINE_SECONDS)
        earlier = [one for one in known.values() if one.request.number < record.request.number and _measured(one)]
        return Case(
            record,
            root,
            anchor if anchor is not None and _measured(anchor) and record.id != root.id else None,
            (*earlier, *await self._shown(record)),
            tuple(known.values()),
            settings,
        )

    async def verdict(self, case: Case, job: Job | None) -> pb.Verdict:
        """The whole verdict; what cannot be known is left out, and why is said. Without a job it is a calibration."""
        terms = terms_of(case.settings)
        opinion = await self._opinion(case, job, "judge" in terms)
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
            scores = opinion.scores
            verdict.scores.CopyFrom(
                pb.SubScores(performance=scores.performance, innovation=scores.innovation, complexity=scores.complexity)
            )
        _add_fitness(verdict, case, opinion.raw, terms)
        return verdict

    async def _opinion(self, case: Case, job: Job | None, wanted: bool) -> Opinion:
        """The root is 5 without being asked about, except in a calibration: there the judge is what is measured."""
        if not wanted:
            return Opinion(None, None, "", "", absent_because="the run is without judge")
        judging = await self._judging(case.settings.mind, job)
        if job is not None and case.record.id == case.root.id:
            return by_definition()
        return await judging.judge(case)

    async def _must_not_leak(self, case: Case) -> None:
        """A loss too good to be true ends here, with the numbers and what a thorough check found.

        The paper discards such candidates. Baselines are known programs and set the threshold themselves.
        """
        found = self._suspicion(case)
        if found is None or not found.suspected:
            return
        request = checker_pb2.CheckRequest(
            program=program_of(case.record),
            stage=case.record.stage,
            scale_overrides=case.settings.scale_overrides,
            thorough=True,
        )
        report = await self._checker.Check(request, timeout=300)
        failed = [f"{one.probe}: {one.message}" for one in report.verdicts if one.outcome == "fail"]
        if failed or _policy(case.settings, "leakage") != "probe":
            raise _leak(case.record, found, failed)

    def _suspicion(self, case: Case) -> Suspicion | None:
        loss, root = loss_of(case.record), loss_of(case.root)
        if case.record.kind == pb.KIND_BASELINE or loss is None or root is None:
            return None
        return suspicion(loss, root, [one for baseline in case.baselines if (one := loss_of(baseline)) is not None])

    async def _baselines(self, record: pb.Candidate) -> dict[str, pb.Candidate]:
        """Those of the candidate's stage by name; itself, if it is one, as it was delivered."""
        known = await self._runs.baselines(record.run, record.stage)
        own = [record] if record.request.baseline else []
        return {one.request.baseline: one for one in [*known, *own]}

    async def _shown(self, record: pb.Candidate) -> list[pb.Candidate]:
        """The parent and the references: what was there to be copied from."""
        names = dict.fromkeys(name for name in (record.proposal.parent, *record.proposal.references) if name)
        request = archive_pb2.GetCandidatesRequest(run=record.run, candidates=names)
        return list((await self._archive.GetCandidates(request, timeout=30)).candidates) if names else []


def _add_fitness(verdict: pb.Verdict, case: Case, raw: float | None, terms: frozenset[str]) -> None:
    try:
        value = score(case.settings.fitness or "paper", case.record, raw, case.root, terms)
    except ValueError as error:
        verdict.absent_because = f"the fitness is absent: {error}"
        return
    if value is not None:
        verdict.fitness.CopyFrom(value)
    elif not verdict.absent_because:
        verdict.absent_because = "the fitness is absent: not all of its terms were measured"


def _leak(record: pb.Candidate, found: Suspicion, failed: list[str]) -> Rejected:
    """The rejection with its evidence: the numbers, the probes that fail, and where a watcher stopped a seed."""
    unexplained = "no probe of the thorough check explains it (with --policy leakage=probe a run keeps it then)"
    because = f"the thorough check fails ({failed[0]})" if failed else unexplained
    return Rejected(
        "judge",
        f"loss {found.loss:.4f} is below {found.floor:.4f}, more than 10% under the best honest one: {because}",
        {
            "loss": found.loss,
            "reference": found.reference,
            "floor": found.floor,
            "failed_probes": failed,
            "stopped": [seed.stopped for seed in record.training.seeds if seed.HasField("stopped")],
        },
    )


def _policy(settings: events_pb2.RunSettings, name: str) -> str:
    fields = settings.policies.fields
    return fields[name].string_value if name in fields else ""


def _measured(record: pb.Candidate) -> bool:
    return record.training.HasField("loss")


def _is_to_come(baseline: pb.Candidate | None, record: pb.Candidate) -> bool:
    """Asked for before the candidate, not measured, and not rejected either."""
    return (
        baseline is not None
        and baseline.request.number < record.request.number
        and not _measured(baseline)
        and baseline.state not in ENDED
    )
