"""`asi-arch show`: one candidate; `compare` and `diff`: two candidates by their measures and their programs."""

import asyncio
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from services.archive import all_candidates
from services.archive.lessons import Quotation, lessons_text, quotations
from services.archive.scoring import program_of
from services.chassis.errors import NotFound, NotPossible
from services.console.options import Candidate, Json, Run, print_json
from services.console.tables import (
    Column,
    mixed_conditions,
    pairs,
    paragraph,
    print_code,
    print_markdown,
    say,
    styled,
    table,
)
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.domain.objectives import LOWER_IS_BETTER
from services.llm.port import Role
from services.local.archive import find_candidates, open_archive
from services.local.settings import ClientSettings, client_settings
from services.report.rows import ABSENT, Gain, Row, as_dict, gain_over, interval_text, number, row

if TYPE_CHECKING:
    from services.llm.recorded import Exchange

PROPOSALS = ("ProposalAnswer", "TryingAnswer")
"""Forms of answers that propose a program."""

SECTIONS = (
    ("design_evaluation", "Design"),
    ("results", "Results"),
    ("expectation", "Expectation against reality"),
    ("explanation", "Explanation"),
    ("synthesis", "Next steps"),
)


def show(
    candidate: Candidate,
    program: Annotated[bool, typer.Option("--program", help="print only its program")] = False,
    lessons: Annotated[bool, typer.Option("--lessons", help="sentences of its prompt that quote analyses, with their "
                                          "sources, and later prompts that quote its own analysis")] = False,
    exchanges: Annotated[Path | None, typer.Option(help="with --lessons: recorded exchanges, for prompts that are not "
                                                   "on this machine")] = None,
    run: Run = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show one candidate: numbers, motivation, verdict, analysis."""
    if exchanges is not None and not lessons:
        raise typer.BadParameter("--exchanges needs --lessons")
    if program and as_json:
        raise typer.BadParameter("--program prints code, and --json the whole record: give one")
    if lessons and program:
        raise typer.BadParameter("--program and --lessons print different things: give one")
    if lessons:
        learnt = asyncio.run(_learnt(client_settings(), run, candidate, exchanges))
        print_json(learnt.as_json()) if as_json else _print_learnt(learnt)
        return
    record, root = asyncio.run(_with_root(client_settings(), run, candidate))
    if as_json:
        print_json(as_dict(record))
    elif program:
        if not (text := program_of(record)):
            raise NotFound(f"candidate {record.id} of run {record.run} has no program")
        print_code(text, "python")
    else:
        _print_candidate(record, gain_over(root, record))


async def _with_root(
    settings: ClientSettings, run: str, candidate: str
) -> tuple[candidate_pb2.Candidate, candidate_pb2.Candidate | None]:
    """The candidate, and the baseline of its verdict if there is one."""
    async with open_archive(settings) as archive:
        record = await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=candidate), timeout=30)
        if not record.verdict.baseline:
            return record, None
        request = pb.GetCandidateRequest(run=record.run, candidate=record.verdict.baseline)
        return record, await archive.GetCandidate(request, timeout=30)


@dataclass(frozen=True)
class Learnt:
    """Quotations of earlier analyses in a proposal's prompt, and of the candidate's own analysis in later ones."""

    record: candidate_pb2.Candidate
    names: Mapping[str, str]  # of candidates, by id
    quoted: Sequence[Quotation]  # in the prompt of its proposal
    own: Sequence[pb.WeighedLesson]  # lessons of its analysis, refuted ones last
    refuted: int
    passed_on: Sequence[tuple[str, Quotation]]  # candidates whose prompts quote its analysis

    def as_json(self) -> dict[str, object]:
        return {
            "candidate": self.record.id,
            "prompt": [asdict(item) for item in self.quoted],
            "lessons": [as_dict(item) for item in self.own],
            "refuted": self.refuted,
            "quoted_later": [{"by": by, **asdict(item)} for by, item in self.passed_on],
        }


async def _learnt(settings: ClientSettings, run: str, name: str, exchanges: Path | None) -> Learnt:
    """Raises NotPossible for a proposal whose prompt is neither among the artifacts nor in the file of exchanges."""
    from services.llm.recorded import read_exchanges  # gRPC and fsspec, which the other commands do not need

    async with open_archive(settings) as archive:
        record = await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=name), timeout=30)
        records = await all_candidates(archive, pb.ListCandidatesRequest(run=record.run, sort="number"))
        weighed = await archive.GetLessons(pb.LessonsRequest(run=record.run), timeout=60)
    recorded = read_exchanges(exchanges) if exchanges else []
    prompts = {
        other.id: prompt for other in records if (prompt := await _prompt(settings, other, recorded)) is not None
    }
    if record.id not in prompts and any(call.role == Role.PROPOSE for call in record.calls):
        raise NotPossible(
            f"the prompt of candidate {record.id} is not among the artifacts of this machine: give a file that "
            "holds it with --exchanges FILE.jsonl, or replay the run with --mind recorded:FILE.jsonl"
        )
    before = [other for other in records if other.request.number < record.request.number]
    valid = [lesson for lesson in weighed.lessons if lesson.source == record.id]
    refuted = [lesson for lesson in weighed.refuted if lesson.source == record.id]
    others = ((name, prompt) for name, prompt in prompts.items() if name != record.id)
    return Learnt(
        record,
        {other.id: other.proposal.name for other in records},
        quotations(prompts.get(record.id, ""), before),
        [*valid, *refuted],
        len(refuted),
        [(name, quotation) for name, prompt in others for quotation in quotations(prompt, [record])],
    )


async def _prompt(
    settings: ClientSettings, record: candidate_pb2.Candidate, exchanges: "Sequence[Exchange]"
) -> str | None:
    """The last prompt for this proposal; None if there was none, or its text is not on this machine."""
    from services.archive.artifacts import ArtifactDamaged, FsspecArtifacts

    calls = [call for call in record.calls if call.role == Role.PROPOSE and not call.error]
    if not calls:
        return None
    try:
        body = json.loads(await FsspecArtifacts(settings.artifacts).get(calls[-1].prompt))
        return "\n".join(str(message["content"]) for message in body["messages"])
    except (FileNotFoundError, ArtifactDamaged, ValueError, KeyError):
        quoted = json.dumps(record.proposal.name)
        answers = [exchange for exchange in exchanges if exchange.form in PROPOSALS and quoted in exchange.answer]
        return "\n".join(message.content for message in answers[-1].messages) if answers else None


def _print_learnt(learnt: Learnt) -> None:
    record, names = learnt.record, learnt.names
    say(paragraph(f"{record.proposal.name} · {record.id} · run {record.run}"))
    say(paragraph(f"\nSentences of earlier analyses in its proposal's prompt: {len(learnt.quoted)}"))
    for quotation in learnt.quoted:
        source = f"{names[quotation.source]} ({quotation.source}), {quotation.part}"
        say(paragraph(f'{quotation.section} ← {source}: "{quotation.sentence}"'))
    say(paragraph(f"\nLessons of its own analysis: {len(learnt.own)}, {learnt.refuted} of them refuted since"))
    for line in lessons_text(learnt.own).splitlines() if learnt.own else ():
        say(paragraph(line))
    say(paragraph(f"\nSentences of its analysis in later prompts: {len(learnt.passed_on)}"))
    for by, quotation in learnt.passed_on:
        say(paragraph(f'{names[by]} ({by}), {quotation.section} ← {quotation.part}: "{quotation.sentence}"'))


def _print_candidate(record: candidate_pb2.Candidate, gain: Gain | None) -> None:
    values = row(record)
    header = f"{values['id']} · run {values['run']} · {values['stage']} · {values['state']}"
    say(paragraph(f"{values['name'] or ABSENT} · {header}"))
    if record.HasField("rejection"):
        say(styled(paragraph(f"rejected at {record.rejection.stage}: {record.rejection.reason}"), fg="red"))
    say(pairs(_numbers(record, values, gain)))
    if record.HasField("discovery"):
        from services.report.claims import sentences

        for line in sentences([record])[1:]:
            say(paragraph(line.strip()))
    for title, text in texts(record):
        say()
        print_markdown(f"**{title}** — {text}", paragraph(f"{title} — {text}"))


def texts(record: candidate_pb2.Candidate) -> list[tuple[str, str]]:
    """What was written of a candidate, with titles: motivation, repairs of its program, verdict, analysis."""
    repairs = [
        ("Repaired in training", f"{revision.error.partition(chr(10))[0]} {revision.repair}")
        for revision in record.training.revisions
    ]
    parts = [("Motivation", record.proposal.motivation), *repairs, ("Verdict", record.verdict.justification)]
    parts += [(title, getattr(record.analysis, field)) for field, title in SECTIONS]
    return [(title, text) for title, text in parts if text]


def _numbers(record: candidate_pb2.Candidate, values: Row, gain: Gain | None) -> list[tuple[str, str]]:
    fitness = number(values["fitness"])
    if values["fitness_low"] is not None and values["fitness_high"] is not None:
        fitness += " " + interval_text(values["fitness_low"], values["fitness_high"], ".4f")
    lines = [
        ("loss", f"{number(values['loss'])} nats per token"),
        ("fitness", fitness),
        ("gain over root", "" if gain is None else gain.sentence),
        ("benchmark", "" if values["benchmark"] is None else f"{values['benchmark']:.3f}"),
        ("judge", "" if values["judge"] is None else f"{values['judge']:.1f}"),
        ("parent", values["parent"] or ""),
        ("components", ", ".join(record.proposal.components)),
        ("parameters", f"{values['parameters']:,}" if values["parameters"] else ""),
        ("time", f"{values['seconds']:.0f} s" if values["seconds"] else ""),
        ("state size", f"{values['state_size']:,.0f} numbers per layer" if values["state_size"] else ""),
        ("stopped early", " ".join(seed.stopped for seed in record.training.seeds if seed.HasField("stopped"))),
    ]
    if record.training.seeds:
        measured = record.training.seeds[0].measurements
        speed = f"{measured.tokens_per_second:,.0f} tokens/s" if measured.HasField("tokens_per_second") else ""
        lines += [
            ("loss by part", ", ".join(f"{at.part} {at.loss:.3f}" for at in record.training.seeds[0].part_losses)),
            ("speed", speed),
            ("device", measured.device_name or measured.device),
            ("precision", values["precision"] or ""),
        ]
    return [(title, text) for title, text in lines if text]


LESS_IS_BETTER = {"loss": True, "fitness": False, "benchmark": False, "judge": False, "parameters": None,
                  "seconds": True}  # fmt: skip
"""None: neither is better. Tasks are accuracies."""
UNITS = {"loss": "nats per token", "benchmark": "accuracy", "judge": "1–10"}
PATTERNS = {"parameters": ",.0f", "seconds": ",.0f", "judge": ".1f"}


class Measure(TypedDict):
    """One measure of two candidates. `better`: the id of the better one; None where they are equal or unknown."""

    measure: str
    first: float | None
    second: float | None
    difference: float | None
    better: str | None


def compare(first: Candidate, second: Candidate, run: Run = "", as_json: Json = False) -> None:
    """Compare two candidates measure by measure."""
    left, right = asyncio.run(find_candidates(client_settings(), run, first, second))
    if not as_json:
        _print_measures(left, right)
        return
    print_json([
        {"measure": measure["measure"], left.id: measure["first"], right.id: measure["second"],
         "difference": measure["difference"], "better": measure["better"]}
        for measure in measures(left, right)
    ])  # fmt: skip


def diff(first: Candidate, second: Candidate, run: Run = "", as_json: Json = False) -> None:
    """Show the difference between two programs."""
    left, right = asyncio.run(find_candidates(client_settings(), run, first, second))
    if missing := [record.id for record in (left, right) if not program_of(record)]:
        have = "has" if len(missing) == 1 else "have"
        raise NotFound(f"{' and '.join(missing)} of run {left.run} {have} no program: there is nothing to compare")
    before, after = (program_of(record).splitlines(keepends=True) for record in (left, right))
    text = "".join(difflib.unified_diff(before, after, fromfile=f"{left.id}.py", tofile=f"{right.id}.py"))
    if as_json:
        print_json({"run": left.run, "first": left.id, "second": right.id, "difference": text})
    elif not text:
        say("the programs are the same")
    else:
        print_code(text, "diff", wrap=True)


def measures(record: candidate_pb2.Candidate, reference: candidate_pb2.Candidate) -> list[Measure]:
    """What both were measured in, and the tasks of either."""
    left, right = row(record), row(reference)
    values = [(name, left[name], right[name], less) for name, less in LESS_IS_BETTER.items()]  # type: ignore[literal-required]
    ours, theirs = _tasks(record), _tasks(reference)
    falling = {
        score.task
        for seed in (*record.training.seeds[:1], *reference.training.seeds[:1])
        for score in seed.scores
        if score.metric.endswith(LOWER_IS_BETTER)
    }
    values += [(task, ours.get(task), theirs.get(task), task in falling) for task in dict.fromkeys((*ours, *theirs))]
    rows = []
    for name, a, b, less in values:
        difference = None if a is None or b is None else a - b
        better = None
        if difference and less is not None:
            better = record.id if (difference < 0) == less else reference.id
        rows.append(Measure(measure=name, first=a, second=b, difference=difference, better=better))
    return rows


def _tasks(record: candidate_pb2.Candidate) -> dict[str, float]:
    return {score.task: score.value for seed in record.training.seeds[:1] for score in seed.scores}


def _print_measures(left: candidate_pb2.Candidate, right: candidate_pb2.Candidate) -> None:
    rows = measures(left, right)
    for record in (left, right):
        say(f"{record.id}  {record.proposal.name or ABSENT}")
    say()
    say(table([
        Column("measure", [measure["measure"] for measure in rows], flexible=True),
        Column(left.id, [_shown(measure, measure["first"]) for measure in rows], right=True),
        Column(right.id, [_shown(measure, measure["second"]) for measure in rows], right=True),
        Column("difference", [_shown(measure, measure["difference"], "+") for measure in rows], right=True, rank=2),
        Column("better", [measure["better"] or ABSENT for measure in rows], rank=1),
        Column("unit", [UNITS.get(measure["measure"], "") for measure in rows], rank=3),
    ]))  # fmt: skip
    if gain := gain_over(right, left):
        say(paragraph(f"gain of {left.id} over {right.id} in loss: {gain.sentence}"))
    if warning := mixed_conditions([row(left), row(right)]):
        say(styled(paragraph(warning), fg="yellow"))


def _shown(measure: Measure, value: float | None, sign: str = "") -> str:
    return number(value, sign + PATTERNS.get(measure["measure"], ".4f"))
