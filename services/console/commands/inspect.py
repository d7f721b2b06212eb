"""`asi-arch runs`, `report`, `lineage`, `compare`, `diff`, `cost`, `dead`, `audit`: a run from other sides."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from services.console.archive import all_candidates, open_archive
from services.console.commands.run import write_run_report
from services.console.progress import clock
from services.console.rows import Row, row
from services.console.settings import ConsoleSettings
from services.console.tables import ABSENT, mixed_precision, number
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2

Candidate = candidate_pb2.Candidate


async def runs(settings: ConsoleSettings) -> list[pb.RunStatus]:
    """All runs, newest first."""
    async with open_archive(settings) as archive:
        return list((await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs)


async def report(settings: ConsoleSettings, run: str, folder: Path | None) -> Path | None:
    """Write the report of a run; its page."""
    async with open_archive(settings) as archive:
        name = (await archive.GetRun(pb.RunRequest(run=run), timeout=30)).run
        return await write_run_report(archive, name, folder or settings.run_folder(name) / "report")


async def lineage(settings: ConsoleSettings, run: str, candidate: str) -> list[Row]:
    """From the root to the candidate."""
    async with open_archive(settings) as archive:
        request = pb.GetRelativesRequest(run=run, candidate=candidate)
        path = (await archive.GetRelatives(request, timeout=30)).path
        return [
            row(await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=one), timeout=30)) for one in path
        ]


async def two(settings: ConsoleSettings, run: str, first: str, second: str) -> tuple[Candidate, Candidate]:
    """Two candidates of a run."""
    async with open_archive(settings) as archive:
        one = await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=first), timeout=30)
        other = await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=second), timeout=30)
        return one, other


async def all_of(settings: ConsoleSettings, run: str) -> tuple[pb.RunStatus, list[Candidate]]:
    """A run and all its candidates, whole."""
    async with open_archive(settings) as archive:
        status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
        return status, await all_candidates(archive, pb.ListCandidatesRequest(run=status.run))


async def chain(settings: ConsoleSettings, run: str, candidate: str) -> tuple[Candidate, list[pb.ChainLink]]:
    """A candidate and its events, oldest first."""
    async with open_archive(settings) as archive:
        request = pb.GetCandidateRequest(run=run, candidate=candidate)
        record = await archive.GetCandidate(request, timeout=30)
        return record, list((await archive.GetChain(request, timeout=30)).links)


def print_runs(console: Console, found: Sequence[pb.RunStatus]) -> None:
    """One line each."""
    for one in found:
        states = ", ".join(f"{count} {name}" for name, count in sorted(one.states.items())) or "no candidates"
        console.print(f"[bold]{one.run}[/bold]  {one.phase}  {states}  {clock(one.spent.seconds)}")


def compared(one: Candidate, other: Candidate) -> list[dict[str, object]]:
    """Measure by measure: both values and the difference, None where either is absent."""
    left, right = row(one), row(other)
    names = ("fitness", "loss", "benchmark", "judge", "parameters", "seconds", "precision")
    pairs: list[tuple[str, object, object]] = [(name, left[name], right[name]) for name in names]  # type: ignore[literal-required]
    ours, theirs = _tasks(one), _tasks(other)
    pairs += [(task, ours.get(task), theirs.get(task)) for task in dict.fromkeys((*ours, *theirs))]
    return [
        {"measure": name, one.id: a, other.id: b,
         "difference": a - b if isinstance(a, int | float) and isinstance(b, int | float) else None}
        for name, a, b in pairs
    ]  # fmt: skip


def print_compared(console: Console, one: Candidate, other: Candidate) -> None:
    """A table of both."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", f"{one.proposal.name} ({one.id})", f"{other.proposal.name} ({other.id})", "difference"):
        table.add_column(escape(title), justify="left" if not title else "right", overflow="fold")
    for line in compared(one, other):
        values = [line[one.id], line[other.id], line["difference"]]
        table.add_row(str(line["measure"]), *(_shown(value) for value in values))
    console.print(table)
    if warning := mixed_precision([row(one), row(other)]):
        console.print(f"[yellow]{warning}[/yellow]")


def program_difference(one: Candidate, other: Candidate) -> str:
    """A unified diff of two programs."""
    before, after = (_program(record).splitlines(keepends=True) for record in (one, other))
    return "".join(difflib.unified_diff(before, after, fromfile=f"{one.id}.py", tofile=f"{other.id}.py"))


def _program(record: Candidate) -> str:
    return record.training.program or record.proposal.program


def print_difference(console: Console, text: str) -> None:
    """Coloured on a terminal, elsewhere as it is: whole lines, which `patch` can read."""
    if not text:
        console.print("the programs are the same")
    elif console.is_terminal:
        console.print(Syntax(text, "diff", background_color="default", word_wrap=True))
    else:
        console.out(text, end="", highlight=False)


def costs(status: pb.RunStatus, records: Sequence[Candidate]) -> dict[str, object]:
    """What a run has used, in all and by kind of candidate and role of a mind. Dollars are None without any price."""
    calls = [call for record in records for call in record.calls]
    roles = {
        role: _asked([call for call in calls if call.role == role]) for role in sorted({one.role for one in calls})
    }
    seconds: dict[str, float] = {}
    for record in records:
        kind = candidate_pb2.Kind.Name(record.kind).removeprefix("KIND_").lower()
        seconds[kind] = seconds.get(kind, 0.0) + sum(seed.measurements.seconds for seed in record.training.seeds)
    spent = status.spent
    priced = not calls or any(one.HasField("price") for one in calls)
    return {"run": status.run, "wall_seconds": spent.seconds, "training_seconds": spent.training_seconds,
            "gpu_seconds": spent.gpu_seconds, "flops": spent.flops, "tokens": spent.tokens,
            "dollars": spent.money if priced else None,
            "training_seconds_by_kind": seconds, "minds_by_role": roles}  # fmt: skip


def _asked(calls: Sequence[candidate_pb2.Call]) -> dict[str, float | None]:
    prices = [one.price for one in calls if one.HasField("price")]
    tokens = sum(one.prompt_tokens + one.completion_tokens for one in calls)
    return {"calls": len(calls), "tokens": tokens, "dollars": sum(prices) if prices else None}


def print_costs(console: Console, found: Mapping[str, object]) -> None:
    """A line for each number; what is counted apart stands below its title."""
    for name, value in found.items():
        if isinstance(value, dict):
            console.print(f"{name.replace('_', ' ')}" + ("" if value else f"  {ABSENT}"))
            for part, numbers in sorted(value.items()):
                console.print(f"  {part:<24}{_numbers(numbers)}")
        else:
            console.print(f"{name.replace('_', ' '):<26}{_numbers(value)}")


def _numbers(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_numbers(number)} {name}" for name, number in value.items())
    return ABSENT if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)


def print_audit(console: Console, record: Candidate, links: Sequence[pb.ChainLink]) -> None:
    """The whole chain of one result: every event with its hash, and what each added."""
    console.print(f"[bold]{escape(record.proposal.name or record.id)}[/bold]  {record.id} · run {record.run}")
    for link in links:
        event = link.event
        verdict = "" if link.accepted else f"  [red]refused: {escape(link.refused_because)}[/red]"
        moment = event.time.ToDatetime().isoformat(timespec="seconds")
        console.print(
            f"{link.sequence:>6}  {moment}  {event.id}  [dim]{link.sha256[:16]}[/dim]{verdict}", soft_wrap=True
        )
    for title, text in _facts(record):
        console.print(f"[dim]{title:<14}[/dim]{escape(text)}", soft_wrap=True)


def _facts(record: Candidate) -> list[tuple[str, str]]:
    proposal = record.proposal
    facts = [
        ("parent", proposal.parent or ABSENT),
        ("references", ", ".join(proposal.references) or ABSENT),
        ("mind", f"{proposal.mind} {proposal.prompt_version}".strip()),
        ("moves", ", ".join(proposal.moves) or ABSENT),
        ("cognition", ", ".join(hit.entry for hit in proposal.cognition) or ABSENT),
        ("check", _check(proposal.check)),
    ]
    for seed in record.training.seeds:
        one = seed.measurements
        versions = ", ".join(f"{name} {version}" for name, version in sorted(one.versions.items()))
        facts += [
            (f"seed {seed.seed}", f"loss {seed.loss:.6f} on {one.device_name}, {one.seconds:.0f} s, {one.isolation}"),
            ("data", one.data_fingerprint[:32]),
            ("versions", versions),
            ("precision", one.precision or ABSENT),
        ]
    for call in record.calls:
        facts.append(("call", f"{call.role} {call.model} prompt {call.prompt.path} answer {call.answer.path}"))
    facts.append(("verdict", f"judge {number(record.verdict.raw if record.verdict.HasField('raw') else None, '.2f')}, "
                  f"fitness {number(row(record)['fitness'])} by {record.verdict.judge}"))  # fmt: skip
    return facts


def _check(report: candidate_pb2.CheckReport) -> str:
    warned = [one.probe for one in report.verdicts if one.outcome != "pass"]
    outcome = "passed" if report.passed else "failed"
    return f"{outcome} {len(report.verdicts)} probes" + (f", not quite: {', '.join(warned)}" if warned else "")


def uses(records: Sequence[Candidate]) -> list[dict[str, object]]:
    """For each candidate with a parent: the entries it was shown, and its gain in fitness where both were scored."""
    fitness = {one.id: one.verdict.fitness.value for one in records if one.verdict.HasField("fitness")}
    return [
        {
            "entries": [hit.entry for hit in one.proposal.cognition],
            "gain": fitness[one.id] - fitness[one.proposal.parent]
            if one.id in fitness and one.proposal.parent in fitness
            else None,
        }
        for one in records
        if one.proposal.parent
    ]


def to_json(value: object) -> str:
    """As every command prints it."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _tasks(record: Candidate) -> dict[str, float]:
    return {score.task: score.value for seed in record.training.seeds[:1] for score in seed.scores}


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return ABSENT if value is None else f"{value:,}" if isinstance(value, int) else str(value)
