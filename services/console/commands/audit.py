"""`asi-arch audit`: the events behind one result, and the result once more: its check and its training."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev
from typing import Annotated

import typer

from services.chassis.errors import NotPossible
from services.console.archive import open_archive
from services.console.comparison import program_of
from services.console.options import Candidate, Json, Run, print_json
from services.console.rows import as_dict, row
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import ABSENT, number, pairs, say, styled
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2

SEED_SPREAD = 0.0135
"""Nats: standard deviation between seeds at scale tiny as measured once; used where a candidate has one seed only."""
SPREADS = 3.0


@dataclass(frozen=True)
class Rerun:
    """One seed trained again. `holds` when the loss lies within three spreads of the recorded one."""

    seed: int
    recorded_loss: float
    loss: float | None
    spread: float
    check_passed: bool
    holds: bool
    sentence: str


def audit(
    candidate: Candidate,
    no_rerun: Annotated[bool, typer.Option("--no-rerun", help="only show the chain")] = False,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """The whole chain of one result; then its check and training once more, to see whether the numbers hold."""
    status, record, links = asyncio.run(_chain(console_settings(), run, candidate))
    if not as_json:
        _print_chain(record, links)
    rerun = None if no_rerun else rerun_of(record, status)
    if as_json:
        chain = [as_dict(link) for link in links]
        print_json({"candidate": as_dict(record), "chain": chain, "rerun": None if rerun is None else asdict(rerun)})
    elif rerun is not None:
        say(rerun.sentence)
    if rerun is not None and not rerun.holds:
        raise typer.Exit(1)


async def _chain(
    settings: ConsoleSettings, run: str, candidate: str
) -> tuple[pb.RunStatus, candidate_pb2.Candidate, Sequence[pb.ChainLink]]:
    """The run, the candidate, and its events, oldest first."""
    async with open_archive(settings) as archive:
        request = pb.GetCandidateRequest(run=run, candidate=candidate)
        record = await archive.GetCandidate(request, timeout=30)
        status = await archive.GetRun(pb.RunRequest(run=record.run), timeout=30)
        return status, record, (await archive.GetChain(request, timeout=30)).links


def rerun_of(record: candidate_pb2.Candidate, status: pb.RunStatus) -> Rerun:
    """Check the program and train its first seed again, in a sandbox of this machine.

    Raises NotPossible for a candidate that was never trained here.
    """
    if not record.training.seeds or not record.training.HasField("loss"):
        raise NotPossible(
            f"candidate {record.id} was not trained here: there is nothing to train again; see --no-rerun"
        )
    seed = record.training.seeds[0]
    overrides = [
        part for name, value in status.settings.scale_overrides.items() for part in ("--set", f"{name}={value}")
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(program_of(record), encoding="utf-8")
        common = [str(file), "--json", "--scale", record.stage, *overrides]
        exempt = ["--exempt-from-cost"] if record.request.baseline == "softmax_attention" else []
        checked = _tool("check", *common, *exempt)
        trained = _tool("train", *common, "--seed", str(seed.seed))
    losses = [one.loss for one in record.training.seeds]
    spread = stdev(losses) if len(losses) > 1 else SEED_SPREAD
    passed = checked.get("passed") is True
    loss = trained.get("loss")
    if not isinstance(loss, float):
        sentence = f"the numbers do NOT hold: training it again failed ({trained.get('reason')})"
        return Rerun(seed.seed, seed.loss, None, spread, passed, False, sentence)
    near = abs(loss - seed.loss) <= SPREADS * spread
    verdict = "hold" if near and passed else "do NOT hold"
    sentence = (
        f"the numbers {verdict}: seed {seed.seed} gives {loss:.4f} against {seed.loss:.4f} on record, "
        f"seeds' spread {spread:.4f}; the check {'passes' if passed else 'FAILS'}"
    )
    return Rerun(seed.seed, seed.loss, loss, spread, passed, near and passed, sentence)


def _tool(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "services.engineer.tools", *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    try:
        found: dict[str, object] = json.loads(done.stdout)
    except ValueError:
        raise NotPossible(f"the engineer's tool ended with status {done.returncode} and no result") from None
    return found


def _print_chain(record: candidate_pb2.Candidate, links: Sequence[pb.ChainLink]) -> None:
    """Every event with its hash, and what each added."""
    say(f"{styled(record.proposal.name or record.id, bold=True)}  {record.id} · run {record.run}")
    for link in links:
        event = link.event
        refused = "" if link.accepted else styled(f"  refused: {link.refused_because}", fg="red")
        moment = event.time.ToDatetime().isoformat(timespec="seconds")
        say(f"{link.sequence:>6}  {moment}  {event.id}  {styled(link.sha256[:16], dim=True)}{refused}")
    say(pairs(_facts(record)))


def _facts(record: candidate_pb2.Candidate) -> list[tuple[str, str]]:
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
