"""`asi-arch compare` and `asi-arch diff`: two candidates measure by measure, and the difference of their programs."""

import asyncio
from typing import TypedDict

from services.chassis.errors import NotFound
from services.console.archive import open_archive
from services.console.options import Candidate, Json, Run, print_json
from services.console.rows import gain_over, program_difference, program_of, row
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import ABSENT, Column, in_colour, mixed_precision, number, paragraph, say, styled, table
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2

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


def measures(one: candidate_pb2.Candidate, other: candidate_pb2.Candidate) -> list[Measure]:
    """What both were measured in, and the tasks of either."""
    left, right = row(one), row(other)
    values = [(name, left[name], right[name], less) for name, less in LESS_IS_BETTER.items()]  # type: ignore[literal-required]
    ours, theirs = _tasks(one), _tasks(other)
    values += [(task, ours.get(task), theirs.get(task), False) for task in dict.fromkeys((*ours, *theirs))]
    found = []
    for name, a, b, less in values:
        difference = None if a is None or b is None else a - b
        better = None
        if difference and less is not None:
            better = one.id if (difference < 0) == less else other.id
        found.append(Measure(measure=name, first=a, second=b, difference=difference, better=better))
    return found


def _tasks(record: candidate_pb2.Candidate) -> dict[str, float]:
    return {score.task: score.value for seed in record.training.seeds[:1] for score in seed.scores}


def _keyed(measure: Measure, one: candidate_pb2.Candidate, other: candidate_pb2.Candidate) -> dict[str, object]:
    """With the candidates' ids as names."""
    return {"measure": measure["measure"], one.id: measure["first"], other.id: measure["second"],
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
