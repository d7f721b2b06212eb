"""`asi-arch audit`: one result or an exported log, verified by its events and by training again."""

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from services.archive.scoring import program_of
from services.chassis.errors import NotPossible, SettingsError
from services.console.options import Json, Run, complete_candidates, print_json
from services.console.tables import pairs, paragraph, say, styled
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.domain.zoo import is_reference
from services.local.archive import candidate_with_chain
from services.local.engineer_tools import engineer_tool, suited_precision, train_again
from services.local.settings import client_settings
from services.report.rows import ABSENT, as_dict, interval_text, number, row

SEED_SPREAD = 0.0135
"""Nats: the measured standard deviation between seeds at scale tiny, for candidates with one seed."""
SPREADS = 3.0
MAX_PRINTED = 50
FRESH = 900_001
"""The first seed of an audit of an exported run; no run uses such high seeds."""


@dataclass(frozen=True)
class Rerun:
    """One seed trained again; `holds` within three spreads of the recorded loss, on the same text.

    For a training that was stopped early both are training losses at its last step.
    """

    seed: int
    recorded_loss: float
    loss: float | None
    spread: float
    check_passed: bool
    holds: bool
    sentence: str


def audit(
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="CANDIDATE|FILE",
            help="an id, a name that just one candidate has, or an exported log (.jsonl, .jsonl.gz)",
            autocompletion=complete_candidates,
        ),
    ],
    no_rerun: Annotated[bool, typer.Option("--no-rerun", help="train nothing again")] = False,
    run: Run = "",
    seeds: Annotated[int, typer.Option(min=1, help="for a log: number of fresh seeds to train with")] = 1,
    as_json: Json = False,
) -> None:
    """Show the chain of events of one result, then check and train the program again and compare the numbers.

    For an exported log: verify every byte and hash, replay it and recompute its statistics, then train the best
    candidate and the strongest control with fresh seeds on this machine's text.
    """
    of_log = candidate.endswith((".jsonl", ".jsonl.gz"))
    if seeds != 1 and (no_rerun or not of_log):
        raise typer.BadParameter("--seeds needs an exported log, and no --no-rerun")
    if of_log and run:
        raise typer.BadParameter("an exported log holds one run: leave out --run")
    if of_log:
        _audit_log(Path(candidate), 0 if no_rerun else seeds, as_json)
        return
    if candidate and Path(candidate).exists():
        raise SettingsError(f"{candidate} is no exported log: name a file that ends in .jsonl or .jsonl.gz.")
    status, record, links = asyncio.run(candidate_with_chain(client_settings(), run, candidate))
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


def rerun_of(record: candidate_pb2.Candidate, status: pb.RunStatus) -> Rerun:
    """Check the program and train its first seed again in a sandbox. Raises NotPossible if it was not trained here."""
    if not record.training.seeds or not record.training.HasField("loss"):
        raise NotPossible(
            f"candidate {record.id} was not trained here: there is nothing to train again; see --no-rerun"
        )
    seed = record.training.seeds[0]
    overrides, changed = suited_precision(record.stage, status.settings.scale_overrides)
    program = program_of(record), record.stage, overrides
    exempt = ["--exempt-from-cost"] if is_reference(record.request.baseline) else []
    checked = engineer_tool("check", *program, *exempt)
    trained = train_again(record.proposal.name or record.id, *program, seed.seed)
    return outcome(record, checked.get("passed") is True, trained, changed)


def outcome(record: candidate_pb2.Candidate, passed: bool, trained: Mapping[str, Any], changed: str) -> Rerun:
    """What a second check and a second training of the first seed say of the record."""
    seed, losses = record.training.seeds[0], [seed.loss for seed in record.training.seeds]
    spread = stdev(losses) if len(losses) > 1 else SEED_SPREAD
    recorded, loss, where = compared(seed, trained)
    check = f"the check {'passes' if passed else 'FAILS'}{changed and f'; {changed}'}"
    if loss is None:
        sentence = f"the numbers do NOT hold: training it again failed ({trained.get('reason')})"
        return Rerun(seed.seed, recorded, None, spread, passed, False, sentence)
    near = abs(loss - recorded) <= SPREADS * spread
    numbers = f"seed {seed.seed} gives {loss:.4f} against {recorded:.4f} on record{where}"
    if trained["measurements"]["data_fingerprint"] != seed.measurements.data_fingerprint:
        sentence = (
            f"the numbers CANNOT be compared, as this machine holds out other text: {numbers}. Set "
            f"ASI_ENGINEER_TEXT_SEED, and use the corpus and Python, of the run's engineers; {check}"
        )
        return Rerun(seed.seed, recorded, loss, spread, passed, False, sentence)
    verdict = "hold" if near and passed else "do NOT hold"
    sentence = f"the numbers {verdict}: {numbers}, spread of seeds {spread:.4f}; {check}"
    return Rerun(seed.seed, recorded, loss, spread, passed, near and passed, sentence)


def compared(seed: candidate_pb2.SeedResult, trained: Mapping[str, object]) -> tuple[float, float | None, str]:
    """The recorded loss, that of the second training (None if it failed), and the step that both belong to."""
    loss, curve = trained.get("loss"), trained.get("curve")
    if not isinstance(loss, float):
        return seed.loss, None, ""
    if not seed.HasField("stopped"):
        return seed.loss, loss, ""
    again = {point["step"]: point["train_loss"] for point in curve} if isinstance(curve, Sequence) else {}
    for point in reversed(seed.curve):
        if point.HasField("train_loss") and isinstance(value := again.get(point.step), float):
            return point.train_loss, value, f" at step {point.step}, after which it was stopped early"
    raise NotPossible("it was stopped early, before the first step that the second training reports")


@dataclass(frozen=True)
class Repeated:
    """A claim of an exported run, trained again: gains are the control's loss minus the candidate's, by seed."""

    seeds: tuple[int, ...]
    losses: tuple[float, ...]
    control_losses: tuple[float, ...]
    gain: float
    holds: bool
    sentence: str


def _audit_log(path: Path, seeds: int, as_json: bool) -> None:
    """Raises typer.Exit: 1 if the log is inconsistent or the claim does not hold, 2 without such a file."""
    command = [sys.executable, "-m", "services.store.tools", "audit", str(path), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        raise typer.Exit(done.returncode)
    report = json.loads(done.stdout)
    if not as_json:
        _print_log(report)
    claim = report["claims"][0] if report["claims"] else None
    repeated = None
    if claim is not None and seeds and not report["problems"]:
        if not as_json:
            say(f"training {claim['name']} and {claim['control_name']} again, {seeds} fresh seed(s) each …")
        overrides, changed = suited_precision(claim["stage"], claim["overrides"])
        if changed and not as_json:
            say(paragraph(changed))
        repeated = repeat({**claim, "overrides": overrides}, range(FRESH, FRESH + seeds))
    if as_json:
        print_json({**report, "repeated": None if repeated is None else asdict(repeated)})
    elif repeated is not None:
        say(paragraph(repeated.sentence))
    if report["problems"] or (repeated is not None and not repeated.holds):
        raise typer.Exit(1)


def _print_log(report: Mapping[str, Any]) -> None:
    say(f"run {report['run']}: {report['events']} events, digest {report['digest']}")
    for problem in report["problems"][:MAX_PRINTED]:
        say(styled(paragraph(f"! {problem}"), fg="red"))
    if (more := len(report["problems"]) - MAX_PRINTED) > 0:
        say(f"… and {more} more, which --json lists")
    if report["problems"]:
        say(f"the audit FAILS: {len(report['problems'])} contradiction(s), listed above; nothing is trained again")
        return
    say("every line, hash and digest agrees, and the claims follow from the recorded losses")
    for claim in report["claims"]:
        say(paragraph(claim_sentence(claim), indent=4))
    if not report["claims"]:
        say("the run holds no claim that was tested on fresh seeds")


def claim_sentence(claim: Mapping[str, Any]) -> str:
    """A claim of the log in one sentence."""
    interval = claim["interval"]
    return (
        f"{claim['outcome']}: {claim['name']} ({claim['candidate']}) against {claim['control_name']}, the strongest "
        f"control: gain {claim['effect']:+.4f} nats, {interval['level']:.0%} interval "
        f"{interval_text(interval['low'], interval['high'])} over {len(claim['seeds'])} fresh seeds, "
        f"corrected for {claim['tried']} trials"
    )


def repeat(claim: Mapping[str, Any], seeds: Sequence[int]) -> Repeated:
    """Train a claim's candidate and its control with these seeds, two at a time. Raises NotPossible where one fails."""
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(train_again, claim[name], claim[program], claim["stage"], claim["overrides"], seed)
            for program, name in (("program", "name"), ("control_program", "control_name"))
            for seed in seeds
        ]
        results = [job.result() for job in jobs]
    losses = [result.get("loss") for result in results]
    if failed := next((result for result in results if not isinstance(result.get("loss"), float)), None):
        raise NotPossible(f"a training of the audit failed: {failed.get('reason')}")
    own, control = losses[: len(seeds)], losses[len(seeds) :]
    return judged(claim, seeds, own, control)  # type: ignore[arg-type]  # every loss is a number by now


def judged(
    claim: Mapping[str, Any], seeds: Sequence[int], losses: Sequence[float], controls: Sequence[float]
) -> Repeated:
    """Whether the losses support the claim: a confirmed one needs a gain that so many seeds do not give by chance,
    others a gain in the expected interval.

    The noise between seeds is that of the claim's interval.
    """
    gain = fmean(control - own for own, control in zip(losses, controls, strict=True))
    low, high = claim["expected"]["low"], claim["expected"]["high"]
    of_mean = (claim["interval"]["high"] - claim["interval"]["low"]) / 2
    by_chance = of_mean * math.sqrt(len(claim["seeds"]) / len(seeds))
    confirmed = claim["outcome"] == "confirmed"
    holds = gain > by_chance if confirmed else low <= gain <= high
    if confirmed:
        verdict = "the claim HOLDS on this machine" if holds else "the claim is NOT shown on this machine"
    else:
        verdict = f"the log's verdict ({claim['outcome']}) " + ("HOLDS" if holds else "does NOT hold") + " here"
    where = "inside" if low <= gain <= high else "outside"
    sentence = (
        f"{verdict}: {claim['name']} {fmean(losses):.4f}, {claim['control_name']} {fmean(controls):.4f} nats per "
        f"token, gain {gain:+.4f}, {where} the {interval_text(low, high)} expected of one seed on the run's own text"
    )
    if confirmed and 0 < gain <= by_chance:
        enough = max(len(seeds) + 1, math.ceil(2 * len(claim["seeds"]) * (of_mean / claim["effect"]) ** 2))
        sentence += (
            f"; without any difference {len(seeds)} seed(s) give up to {by_chance:.4f} by chance: try --seeds {enough}"
        )
    return Repeated(tuple(seeds), tuple(losses), tuple(controls), gain, holds, sentence)


def _print_chain(record: candidate_pb2.Candidate, links: Sequence[pb.ChainLink]) -> None:
    """Print every event with its hash and content."""
    say(f"{styled(record.proposal.name or record.id, bold=True)}  {record.id} · run {record.run}")
    for link in links:
        event = link.event
        refused = "" if link.accepted else styled(f"  refused: {link.refused_because}", fg="red")
        moment = event.time.ToDatetime().isoformat(timespec="seconds")
        say(f"{link.sequence:>6}  {moment}  {event.id}  {styled(link.sha256[:16], dim=True)}{refused}")
    say(pairs(_facts(record)))


def _facts(record: candidate_pb2.Candidate) -> list[tuple[str, str]]:
    proposal = record.proposal
    verdicts, outcome = proposal.check.verdicts, "passed" if proposal.check.passed else "failed"
    warned = [verdict.probe for verdict in verdicts if verdict.outcome != "pass"]
    checked = f"{outcome} {len(verdicts)} probes" + (f", not passed: {', '.join(warned)}" if warned else "")
    measured = record.training.seeds if record.kind != candidate_pb2.KIND_IMPORTED else ()
    judge = f" by {record.verdict.judge}" if record.verdict.judge else ""
    facts = [
        ("parent", proposal.parent or ABSENT),
        ("references", ", ".join(proposal.references) or ABSENT),
        ("mind", f"{proposal.mind} {proposal.prompt_version}".strip()),
        ("moves", ", ".join(proposal.moves) or ABSENT),
        ("cognition", ", ".join(hit.entry for hit in proposal.cognition) or ABSENT),
        ("check", checked if proposal.HasField("check") else ABSENT),
    ]
    for seed in measured:
        on = seed.measurements
        versions = ", ".join(f"{name} {version}" for name, version in sorted(on.versions.items()))
        facts += [
            (f"seed {seed.seed}", f"loss {seed.loss:.6f} on {on.device_name}, {on.seconds:.0f} s, {on.isolation}"),
            ("data", on.data_fingerprint[:32]), ("versions", versions), ("precision", on.precision or ABSENT),
        ]  # fmt: skip
    for call in record.calls:
        facts.append(("call", f"{call.role} {call.model} prompt {call.prompt.path} answer {call.answer.path}"))
    facts.append(("verdict", f"judge {number(record.verdict.raw if record.verdict.HasField('raw') else None, '.2f')}, "
                  f"fitness {number(row(record)['fitness'])}{judge}"))  # fmt: skip
    return facts
