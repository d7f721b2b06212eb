"""`asi-arch status`, `list`, `show`, `tree`: questions to the archive."""

import json
from collections.abc import Sequence

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from services.console.archive import all_candidates, open_archive
from services.console.commands.gallery import sentences
from services.console.comparing import Gain, gain_over
from services.console.plan import one_of
from services.console.progress import clock
from services.console.rows import Node, Row, row, tree_row
from services.console.settings import ConsoleSettings
from services.console.tables import ABSENT, family, listing, mixed_precision, number
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2

PARTS = (
    ("design_evaluation", "Design"),
    ("results", "Results"),
    ("expectation", "Expectation against reality"),
    ("explanation", "Explanation"),
    ("synthesis", "What to do next"),
)


async def status(settings: ConsoleSettings, run: str) -> pb.RunStatus:
    """Where a run stands. An empty name is the newest run."""
    async with open_archive(settings) as archive:
        return await archive.GetRun(pb.RunRequest(run=run), timeout=30)


async def rows(settings: ConsoleSettings, request: pb.ListCandidatesRequest) -> list[Row]:
    """The candidates that a request selects."""
    request.slim = True
    async with open_archive(settings) as archive:
        about = await archive.GetRun(pb.RunRequest(run=request.run), timeout=30)
        root = about.loss_of_root if about.HasField("loss_of_root") else None
        return [row(one, root) for one in await all_candidates(archive, request)]


async def candidate(settings: ConsoleSettings, run: str, wanted: str) -> candidate_pb2.Candidate:
    """One candidate by id or unique name."""
    async with open_archive(settings) as archive:
        return await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=wanted), timeout=30)


async def root_of(settings: ConsoleSettings, record: candidate_pb2.Candidate) -> candidate_pb2.Candidate | None:
    """The baseline that the record's verdict refers to; None where it has none."""
    if not record.verdict.baseline:
        return None
    return await candidate(settings, record.run, record.verdict.baseline)


async def tree(settings: ConsoleSettings, run: str) -> tuple[str, list[Node]]:
    """The run's name and the nodes of its tree."""
    async with open_archive(settings) as archive:
        about = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
        reply = await archive.GetTree(pb.RunRequest(run=about.run), timeout=30)
        return about.run, [tree_row(node) for node in reply.nodes]


def states_of(names: Sequence[str]) -> list[candidate_pb2.State.ValueType]:
    """States by their lower-case names. Raises SettingsError listing them."""
    known = {
        name.removeprefix("STATE_").lower(): number
        for name, number in candidate_pb2.State.items()
        if number != candidate_pb2.STATE_UNSPECIFIED
    }
    for name in names:
        one_of("--state", name, tuple(known))
    return [known[name] for name in names]


def as_json(message: Message) -> str:
    """A message of the contracts as JSON with the contracts' names."""
    return json.dumps(MessageToDict(message, preserving_proto_field_name=True), indent=2, ensure_ascii=False)


def print_status(console: Console, about: pb.RunStatus) -> None:
    """A run in a dozen lines."""
    table = Table.grid(padding=(0, 2))
    spent = about.spent
    best = about.best
    lines = (
        ("run", f"{about.run} · {about.phase}" + (f" · {about.stop_reason}" if about.stop_reason else "")),
        ("scale, mind", f"{about.settings.scale}, {about.settings.mind}"),
        ("candidates", ", ".join(f"{count} {name}" for name, count in sorted(about.states.items())) or "none yet"),
        ("in flight", f"{about.in_flight} of {about.settings.seats} seats"),
        ("best", f"{best.name} ({best.id}), fitness {best.fitness:.3f}" if about.HasField("best") else ABSENT),
        ("spent", _spent(spent)),
        ("dead letters", str(about.dead_letters)),
        ("log", f"{about.sequence} events"),
    )
    for title, text in lines:
        table.add_row(f"[dim]{title}[/dim]", escape(text))
    console.print(table)


def print_list(console: Console, found: Sequence[Row]) -> None:
    """Candidates as a table."""
    console.print(listing(found) if found else "no candidate matches")
    if warning := mixed_precision(found):
        console.print(f"[yellow]{warning}[/yellow]")


def print_tree(console: Console, run: str, nodes: Sequence[Node]) -> None:
    """The phylogenetic tree."""
    console.print(family(nodes, f"run {run}: {len(nodes)} candidates"))


def print_candidate(
    console: Console, record: candidate_pb2.Candidate, program: bool, root: candidate_pb2.Candidate | None = None
) -> None:
    """One candidate: numbers, motivation, verdict, analysis, and its program if wanted."""
    if program:
        console.print(Syntax(record.training.program or record.proposal.program, "python", background_color="default"))
        return
    one = row(record)
    console.print(
        f"[bold]{escape(one['name'])}[/bold]  {one['id']} · run {one['run']} · {one['stage']} · {one['state']}"
    )
    if record.HasField("rejection"):
        console.print(f"[red]rejected by {record.rejection.stage}:[/red] {escape(record.rejection.reason)}")
    console.print(_numbers(record, one, gain_over(root, record)))
    for line in sentences([record])[1:]:
        console.print(escape(line.strip()))
    if record.proposal.motivation:
        console.print(Markdown(f"**Motivation** — {record.proposal.motivation}"))
    if record.proposal.components:
        console.print(f"[dim]components[/dim] {', '.join(record.proposal.components)}")
    if record.verdict.justification:
        console.print(Markdown(f"**Verdict** — {record.verdict.justification}"))
    for field, title in PARTS:
        if text := getattr(record.analysis, field):
            console.print(Markdown(f"**{title}** — {text}"))


def _numbers(record: candidate_pb2.Candidate, one: Row, gain: Gain | None) -> Table:
    table = Table.grid(padding=(0, 2))
    fitness = number(one["fitness"])
    if one["fitness_low"] is not None and one["fitness_high"] is not None:
        fitness += f" [{one['fitness_low']:.4f}, {one['fitness_high']:.4f}]"
    measured = record.training.seeds[0].measurements if record.training.seeds else None
    lines = [
        ("parent", one["parent"] or ABSENT),
        ("fitness", fitness),
        ("loss", f"{number(one['loss'])} nats per token"),
        ("gain over root", ABSENT if gain is None else gain.sentence),
        ("benchmark", number(one["benchmark"], ".3f")),
        ("judge", number(one["judge"], ".1f")),
        ("parameters", ABSENT if one["parameters"] is None else f"{one['parameters']:,}"),
        ("seconds", number(one["seconds"], ".0f")),
    ]
    if measured is not None:
        speed = measured.tokens_per_second if measured.HasField("tokens_per_second") else None
        lines += [
            ("speed", f"{number(speed, ',.0f')} tokens/s"),
            ("device", measured.device_name or measured.device),
            ("precision", measured.precision or ABSENT),
        ]
    for title, text in lines:
        table.add_row(f"[dim]{title}[/dim]", escape(text))
    return table


def _spent(spent: pb.Spent) -> str:
    parts = [clock(spent.seconds), f"{spent.training_seconds:.0f} s of training"]
    if spent.gpu_seconds:
        parts.append(f"{spent.gpu_seconds / 3600:.2f} GPU-hours")
    if spent.tokens:
        parts.append(f"{spent.tokens:,} tokens for {spent.money:.4f} $")
    return ", ".join(parts)
