"""`asi-arch show`: one candidate; `compare` and `diff`: two candidates by their measures and their programs."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from services.archive.lessons import Quotation, lessons_text, quotations
from services.chassis.artifacts import ArtifactDamaged, FsspecArtifacts
from services.chassis.errors import NotFound, NotPossible
from services.console.archive import all_candidates, open_archive
from services.console.options import Candidate, Json, Run, print_json
from services.console.rows import Gain, Row, as_dict, gain_over, program_difference, program_of, row
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import (
    ABSENT,
    Column,
    in_colour,
    mixed_precision,
    number,
    pairs,
    paragraph,
    say,
    styled,
    table,
    width,
)
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.llm.port import Role
from services.llm.recorded import Exchange, read_exchanges

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
    program: Annotated[bool, typer.Option("--program", help="its program, nothing else")] = False,
    lessons: Annotated[
        bool,
        typer.Option(
            "--lessons",
            help="which sentences of its prompt came from which analysis, and which later prompts quote its own",
        ),
    ] = False,
    exchanges: Annotated[
        Path | None, typer.Option(help="with --lessons: recorded exchanges, for prompts that are not on this machine")
    ] = None,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """One candidate: numbers, motivation, verdict, analysis."""
    if lessons:
        learnt = asyncio.run(_learnt(console_settings(), run, candidate, exchanges))
        print_json(learnt.as_json()) if as_json else _print_learnt(learnt)
        return
    record, root = asyncio.run(_with_root(console_settings(), run, candidate))
    if as_json:
        print_json(as_dict(record))
    elif program:
        _print_program(record)
    else:
        _print_candidate(record, gain_over(root, record))


async def _with_root(
    settings: ConsoleSettings, run: str, candidate: str
) -> tuple[candidate_pb2.Candidate, candidate_pb2.Candidate | None]:
    """The candidate and the baseline that its verdict refers to; None where it has none."""
    async with open_archive(settings) as archive:
        record = await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=candidate), timeout=30)
        if not record.verdict.baseline:
            return record, None
        request = pb.GetCandidateRequest(run=record.run, candidate=record.verdict.baseline)
        return record, await archive.GetCandidate(request, timeout=30)


@dataclass(frozen=True)
class Learnt:
    """What a proposal was told of earlier analyses, and what came of the candidate's own analysis."""

    record: candidate_pb2.Candidate
    names: Mapping[str, str]  # of candidates, by id
    quoted: Sequence[Quotation]  # in the prompt of its proposal, by whom ever
    own: Sequence[pb.WeighedLesson]  # lessons of its analysis, refuted ones last
    refuted: int
    passed_on: Sequence[tuple[str, Quotation]]  # candidates whose prompts quote its analysis

    def as_json(self) -> dict[str, object]:
        """For --json."""
        return {
            "candidate": self.record.id,
            "prompt": [asdict(one) for one in self.quoted],
            "lessons": [as_dict(one) for one in self.own],
            "refuted": self.refuted,
            "quoted_later": [{"by": by, **asdict(one)} for by, one in self.passed_on],
        }


async def _learnt(settings: ConsoleSettings, run: str, name: str, exchanges: Path | None) -> Learnt:
    """Raises NotPossible for a proposal whose prompt is neither among the artifacts nor in the file of exchanges."""
    async with open_archive(settings) as archive:
        record = await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=name), timeout=30)
        records = await all_candidates(archive, pb.ListCandidatesRequest(run=record.run, sort="number"))
        weighed = await archive.GetLessons(pb.LessonsRequest(run=record.run), timeout=60)
    known = read_exchanges(exchanges) if exchanges else []
    prompts = {one.id: prompt for one in records if (prompt := await _prompt(settings, one, known)) is not None}
    asked = any(call.role == Role.PROPOSE for call in record.calls)
    if asked and record.id not in prompts:
        raise NotPossible(
            f"the prompt of candidate {record.id} is not among the artifacts of this machine: give a file that "
            "holds it with --exchanges FILE.jsonl, or replay the run with --mind recorded:FILE.jsonl"
        )
    before = [one for one in records if one.request.number < record.request.number]
    own = [
        [lesson for lesson in lessons if lesson.source == record.id] for lessons in (weighed.lessons, weighed.refuted)
    ]
    return Learnt(
        record,
        {one.id: one.proposal.name for one in records},
        quotations(prompts.get(record.id, ""), before),
        [*own[0], *own[1]],
        len(own[1]),
        [
            (other, quotation)
            for other, prompt in prompts.items()
            if other != record.id
            for quotation in quotations(prompt, [record])
        ],
    )


async def _prompt(
    settings: ConsoleSettings, record: candidate_pb2.Candidate, exchanges: Sequence[Exchange]
) -> str | None:
    """What a language model was last asked for this proposal; None where none was, or the text is not here."""
    calls = [call for call in record.calls if call.role == Role.PROPOSE and not call.error]
    if not calls:
        return None
    try:
        body = json.loads(await FsspecArtifacts(settings.artifacts).get(calls[-1].prompt))
        return "\n".join(str(message["content"]) for message in body["messages"])
    except (FileNotFoundError, ArtifactDamaged, ValueError, KeyError):
        quoted = json.dumps(record.proposal.name)
        answers = [one for one in exchanges if one.form in PROPOSALS and quoted in one.answer]
        return "\n".join(text for _, text in answers[-1].messages) if answers else None


def _print_learnt(learnt: Learnt) -> None:
    one, names = learnt.record, learnt.names
    say(paragraph(f"{one.proposal.name} · {one.id} · run {one.run}"))
    say(paragraph(f"\nIts proposal's prompt quotes {len(learnt.quoted)} sentences of earlier analyses:"))
    for at in learnt.quoted:
        say(paragraph(f'{at.section} ← {names[at.source]} ({at.source}), {at.part}: "{at.sentence}"'))
    say(paragraph(f"\nLessons of its own analysis, {learnt.refuted} of {len(learnt.own)} refuted since:"))
    for line in lessons_text(learnt.own).splitlines() if learnt.own else ():
        say(paragraph(line))
    say(paragraph(f"\nLater prompts quote {len(learnt.passed_on)} sentences of its analysis:"))
    for by, at in learnt.passed_on:
        say(paragraph(f'{names[by]} ({by}), {at.section} ← {at.part}: "{at.sentence}"'))


def _print_program(record: candidate_pb2.Candidate) -> None:
    program = program_of(record)
    if not program:
        raise NotFound(f"candidate {record.id} of run {record.run} has no program")
    if in_colour():
        from rich.console import Console
        from rich.syntax import Syntax

        Console(highlight=False).print(Syntax(program, "python", background_color="default"))
    else:
        say(program)


def _print_candidate(record: candidate_pb2.Candidate, gain: Gain | None) -> None:
    one = row(record)
    say(paragraph(f"{one['name'] or ABSENT} · {one['id']} · run {one['run']} · {one['stage']} · {one['state']}"))
    if record.HasField("rejection"):
        say(styled(paragraph(f"rejected by the {record.rejection.stage}: {record.rejection.reason}"), fg="red"))
    say(pairs(_numbers(record, one, gain)))
    if record.HasField("discovery"):
        from services.console.commands.gallery import sentences

        for line in sentences([record])[1:]:
            say(paragraph(line.strip()))
    sections = [("Motivation", record.proposal.motivation), ("Verdict", record.verdict.justification)]
    sections += [(title, getattr(record.analysis, field)) for field, title in SECTIONS]
    for title, text in sections:
        if text:
            _print_section(title, text)


def _print_section(title: str, text: str) -> None:
    """Prose of a model: as Markdown on a terminal, elsewhere as it is, in lines that fit."""
    say()
    if in_colour():
        from rich.console import Console
        from rich.markdown import Markdown

        Console(highlight=False, width=width()).print(Markdown(f"**{title}** — {text}"))
    else:
        say(paragraph(f"{title} — {text}"))


def _numbers(record: candidate_pb2.Candidate, one: Row, gain: Gain | None) -> list[tuple[str, str]]:
    fitness = number(one["fitness"])
    if one["fitness_low"] is not None and one["fitness_high"] is not None:
        fitness += f" [{one['fitness_low']:.4f}, {one['fitness_high']:.4f}]"
    lines = [
        ("loss", f"{number(one['loss'])} nats per token"),
        ("fitness", fitness),
        ("gain over root", "" if gain is None else gain.sentence),
        ("benchmark", "" if one["benchmark"] is None else f"{one['benchmark']:.3f}"),
        ("judge", "" if one["judge"] is None else f"{one['judge']:.1f}"),
        ("parent", one["parent"] or ""),
        ("components", ", ".join(record.proposal.components)),
        ("parameters", f"{one['parameters']:,}" if one["parameters"] else ""),
        ("time", f"{one['seconds']:.0f} s" if one["seconds"] else ""),
        ("state size", f"{one['state_size']:,.0f} numbers per layer" if one["state_size"] else ""),
        ("stopped early", " ".join(seed.stopped for seed in record.training.seeds if seed.HasField("stopped"))),
    ]
    if record.training.seeds:
        measured = record.training.seeds[0].measurements
        speed = f"{measured.tokens_per_second:,.0f} tokens/s" if measured.HasField("tokens_per_second") else ""
        lines += [
            ("loss by part", ", ".join(f"{at.part} {at.loss:.3f}" for at in record.training.seeds[0].part_losses)),
            ("speed", speed),
            ("device", measured.device_name or measured.device),
            ("precision", one["precision"] or ""),
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
    """Two candidates, measure by measure, and which of the two is better in each."""
    one, other = asyncio.run(_both(console_settings(), run, first, second))
    if as_json:
        print_json([_keyed(measure, one, other) for measure in measures(one, other)])
    else:
        _print_measures(one, other)


def diff(first: Candidate, second: Candidate, run: Run = "", as_json: Json = False) -> None:
    """The difference between two programs."""
    one, other = asyncio.run(_both(console_settings(), run, first, second))
    if missing := [record.id for record in (one, other) if not program_of(record)]:
        have = "has" if len(missing) == 1 else "have"
        raise NotFound(f"{' and '.join(missing)} of run {one.run} {have} no program: there is nothing to compare")
    text = program_difference(one, other)
    if as_json:
        print_json({"run": one.run, "first": one.id, "second": other.id, "difference": text})
    elif not text:
        say("the programs are the same")
    elif in_colour():
        from rich.console import Console
        from rich.syntax import Syntax

        Console(highlight=False).print(Syntax(text, "diff", background_color="default", word_wrap=True))
    else:
        say(text.removesuffix("\n"))  # whole lines, which `patch` can read


async def _both(
    settings: ConsoleSettings, run: str, first: str, second: str
) -> tuple[candidate_pb2.Candidate, candidate_pb2.Candidate]:
    async with open_archive(settings) as archive:
        one = await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=first), timeout=30)
        other = await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=second), timeout=30)
        return one, other


def measures(record: candidate_pb2.Candidate, other: candidate_pb2.Candidate) -> list[Measure]:
    """What both were measured in, and the tasks of either."""
    left, right = row(record), row(other)
    values = [(name, left[name], right[name], less) for name, less in LESS_IS_BETTER.items()]  # type: ignore[literal-required]
    ours, theirs = _tasks(record), _tasks(other)
    values += [(task, ours.get(task), theirs.get(task), False) for task in dict.fromkeys((*ours, *theirs))]
    found = []
    for name, a, b, less in values:
        difference = None if a is None or b is None else a - b
        better = None
        if difference and less is not None:
            better = record.id if (difference < 0) == less else other.id
        found.append(Measure(measure=name, first=a, second=b, difference=difference, better=better))
    return found


def _tasks(record: candidate_pb2.Candidate) -> dict[str, float]:
    return {score.task: score.value for seed in record.training.seeds[:1] for score in seed.scores}


def _keyed(measure: Measure, record: candidate_pb2.Candidate, other: candidate_pb2.Candidate) -> dict[str, object]:
    """With the candidates' ids as names."""
    return {"measure": measure["measure"], record.id: measure["first"], other.id: measure["second"],
            "difference": measure["difference"], "better": measure["better"]}  # fmt: skip


def _print_measures(one: candidate_pb2.Candidate, other: candidate_pb2.Candidate) -> None:
    found = measures(one, other)
    for record in (one, other):
        say(f"{record.id}  {record.proposal.name or ABSENT}")
    say()
    say(table([
        Column("measure", [measure["measure"] for measure in found], flexible=True),
        Column(one.id, [_shown(measure, measure["first"]) for measure in found], right=True),
        Column(other.id, [_shown(measure, measure["second"]) for measure in found], right=True),
        Column("difference", [_shown(measure, measure["difference"], "+") for measure in found], right=True, rank=2),
        Column("better", [measure["better"] or ABSENT for measure in found], rank=1),
        Column("unit", [UNITS.get(measure["measure"], "") for measure in found], rank=3),
    ]))  # fmt: skip
    if gain := gain_over(other, one):
        say(paragraph(f"{one.id} against {other.id}, loss: {gain.sentence}"))
    if warning := mixed_precision([row(one), row(other)]):
        say(styled(paragraph(warning), fg="yellow"))


def _shown(measure: Measure, value: float | None, sign: str = "") -> str:
    return number(value, sign + PATTERNS.get(measure["measure"], ".4f"))
