"""`asi-arch show`: one candidate with its numbers, motivation, verdict and analysis, or its program."""

import asyncio
from typing import Annotated

import typer

from services.chassis.errors import NotFound
from services.console.archive import open_archive
from services.console.options import Candidate, Json, Run, print_json
from services.console.rows import Gain, Row, as_dict, gain_over, program_of, row
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import ABSENT, in_colour, number, pairs, paragraph, say, styled, width
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2

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
    run: Run = "",
    as_json: Json = False,
) -> None:
    """One candidate: numbers, motivation, verdict, analysis."""
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
            ("speed", speed),
            ("device", measured.device_name or measured.device),
            ("precision", one["precision"] or ""),
        ]
    return [(title, text) for title, text in lines if text]
