"""Audits an exported run from its file alone: bytes, hashes, replay, and the statistics of its claims.

Each line contains an event twice, readable and as published; each event contains the hash of its cause; and the
manifest, written at the export, contains all hashes in order and the archive's digest. A change in one place
contradicts the others. SECURITY.md names what a consistent forgery of all of them can change.
"""

import base64
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError

from services.archive.policies import climb_of_run
from services.archive.scoring import measured_on
from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import NotFound, SettingsError, sentence
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.discovery import Finding, findings, prediction
from services.domain.ladder import Climb, Stage
from services.domain.statistics import Interval
from services.store.backends import opened
from services.store.exporting import lines_of
from services.store.port import Query
from services.store.projection import original, read
from services.store.replay import Rebuilt

TOLERANCE = 1e-9
"""In nats: the tolerance of a recomputed effect, since the order of summation differs."""


@dataclass(frozen=True)
class Claim:
    """A verdict of the log, and the data needed to reproduce its training.

    `expected` is the prediction interval of one more fresh seed.
    """

    candidate: str
    name: str
    outcome: str
    control: str
    control_name: str
    effect: float
    interval: Interval
    expected: Interval
    tried: int
    seeds: tuple[int, ...]
    stage: str
    overrides: Mapping[str, str]
    program: str
    control_program: str


@dataclass(frozen=True)
class LogAudit:
    """The result of an audit. Each problem names the event, and the field if it is known."""

    run: str
    events: int
    digest: str
    problems: tuple[str, ...]
    claims: tuple[Claim, ...]


def manifest_of(logged: Sequence[Logged], run: str, digest: str, refused: Iterable[bytes]) -> dict[str, object]:
    """The manifest of an export: the archive's digest, the hash of each event, and the hashes of refused ones."""
    hashes = [hashlib.sha256(message.body).hexdigest() for message in logged]
    return {"run": run, "digest": digest, "refused": sorted(sha256.hex() for sha256 in refused), "sha256": hashes}


def manifest_path(path: Path) -> Path:
    """The manifest beside a log: r1.manifest.json for r1.jsonl.gz."""
    return path.with_name(f"{path.name.removesuffix('.gz').removesuffix('.jsonl')}.manifest.json")


def read_manifest(path: Path) -> dict[str, object]:
    """The manifest in a file. Raises SettingsError if there is none."""
    try:
        manifest = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {path}, which `asi-arch export RUN --manifest` writes beside the log."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not a manifest that `export --manifest` wrote: {sentence(error)}.") from None
    required = {"run": str, "digest": str, "sha256": list}
    for name, kind in required.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise SettingsError(f"{path} is not a manifest that `export --manifest` wrote: it has no valid {name}.")
    return dict(manifest)


async def audit_log(path: Path, manifest: Mapping[str, object]) -> LogAudit:
    """Check all lines, the chain and the manifest; replay in memory and into a new archive; recompute the claims."""
    problems: list[str] = []
    logged = list(_messages(lines_of(path), problems))
    if not logged:
        raise SettingsError(f"{path} holds no event.")
    problems += _manifest_differences(logged, manifest)
    problems += _broken_links(logged)
    run = str(manifest["run"])
    numbered = [Logged(number, message.subject, message.body) for number, message in enumerate(logged, 1)]
    listed = manifest.get("refused")
    refused = {str(sha256) for sha256 in listed} if isinstance(listed, list) else set()
    with Rebuilt() as rebuilt:
        rebuilt.apply([read(message) for message in numbered])
        digest, events = rebuilt.digest()
        problems += [
            f"event {outcome.event} is refused in the replay: {outcome.refused_because}"
            for outcome in rebuilt.outcomes
            if not outcome.accepted and outcome.sha256.hex() not in refused
        ]
    if digest != manifest["digest"]:
        problems.append(f"the replay's digest is {digest[:16]}, the manifest's {str(manifest['digest'])[:16]}")
    try:
        records, archive_digest = await _apply_to_new_archive(numbered, run)
    except NotFound:
        problems.append(f"the log holds no valid start of run {run}, without which there is nothing to audit")
        return LogAudit(run, events, digest, (*dict.fromkeys(problems),), ())
    if archive_digest != digest:
        problems.append(f"a new archive has the digest {archive_digest[:16]}, the replay in memory {digest[:16]}")
    claims, differences = _claims(records, _rounds(numbered))
    return LogAudit(run, events, digest, (*dict.fromkeys((*problems, *differences)),), claims)


def _messages(lines: Iterable[str], problems: list[str]) -> Iterator[Logged]:
    """The messages of the file; invalid lines are added to `problems`."""
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            body = base64.b64decode(line["body"], validate=True)
            subject, readable = str(line["subject"]), line["event"]
            event = events_pb2.Event.FromString(body)
            decoded = MessageToDict(event, preserving_proto_field_name=True)
        except (ValueError, KeyError, TypeError, RecursionError, DecodeError, SerializeToJsonError) as error:
            problems.append(f"line {number} is not an exported event: {error}")
            continue
        for field, shown, actual in _unequal(readable, json.loads(json.dumps(decoded)), ""):
            problems.append(f"event {event.id}: {field} reads {shown}, but its bytes hold {actual}")
        try:
            if subject_of(event) != subject:
                problems.append(f"event {event.id}: its subject is {subject}, but must be {subject_of(event)}")
        except ValueError as error:
            problems.append(f"event {event.id}: {error}")
        yield Logged(number, subject, body)


def _unequal(shown: object, actual: object, path: str) -> Iterator[tuple[str, object, object]]:
    """Every field in which two JSON values differ, by its path."""
    if isinstance(shown, dict) and isinstance(actual, dict):
        for name in sorted(shown.keys() | actual.keys()):
            yield from _unequal(shown.get(name), actual.get(name), f"{path}.{name}" if path else name)
    elif isinstance(shown, list) and isinstance(actual, list) and len(shown) == len(actual):
        for index, pair in enumerate(zip(shown, actual, strict=True)):
            yield from _unequal(*pair, f"{path}[{index}]")
    elif shown != actual:
        yield path or "the event", _short(shown), _short(actual)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _manifest_differences(logged: Sequence[Logged], manifest: Mapping[str, object]) -> list[str]:
    """Events whose bytes are not those that were exported."""
    listed, problems = manifest.get("sha256"), []
    hashes = [str(sha256) for sha256 in listed] if isinstance(listed, list) else []
    if len(logged) != len(hashes):
        problems.append(f"the log holds {len(logged)} events, the manifest {len(hashes)}")
    places, latest = {sha256: place for place, sha256 in enumerate(hashes)}, 0
    for message in logged:
        digest = hashlib.sha256(message.body).hexdigest()
        if (place := places.get(digest, latest)) < latest:
            problems.append(f"event {_original(message).id} comes after later ones: the order was changed")
        latest = max(latest, place)
        if digest not in places:
            expected = hashes[message.sequence - 1][:16] if message.sequence <= len(hashes) else "none"
            found = f"its bytes hash to {digest[:16]}, the manifest has {expected}"
            problems.append(f"event {_original(message).id} was changed: {found}")
    return problems


def _broken_links(logged: Sequence[Logged]) -> list[str]:
    """Events whose hash differs from the one in the events that they caused."""
    hashes = {_original(message).id: hashlib.sha256(original(message.body)).digest() for message in logged}
    return [
        f"event {event.cause} was changed after {event.id} followed from it: its bytes hash to "
        f"{hashes[event.cause].hex()[:16]}, but {event.id} has {event.previous.hex()[:16]}"
        for event in map(_original, logged)
        if event.previous and hashes.get(event.cause, event.previous) != event.previous
    ]


def _original(message: Logged) -> events_pb2.Event:
    return events_pb2.Event.FromString(original(message.body))


async def _apply_to_new_archive(logged: Sequence[Logged], run: str) -> tuple[list[pb.Candidate], str]:
    """All candidates of a new archive, and its digest."""
    with tempfile.TemporaryDirectory() as folder:
        async with opened(f"sqlite:///{folder}/audit.db") as archive:
            await archive.apply(logged)
            page = await archive.list_candidates(Query(run, sort="time", limit=10**9))
            return list(page.candidates), (await archive.digest(run))[0]


@dataclass(frozen=True)
class _Round:
    """Verdicts of one round by candidate, and the rules that applied."""

    climb: Climb
    proposals: int  # requested until then
    verdicts: dict[str, pb.Discovery]


def _rounds(logged: Sequence[Logged]) -> list[_Round]:
    """All rounds of verdicts with an effect. In a fork, a candidate may have been tested before under other rules."""
    settings, rounds, proposals = events_pb2.RunSettings(), dict[str, _Round](), set[str]()
    for message in logged:
        event = read(message).log.event
        match event.WhichOneof("fact"):
            case "run_started" | "run_forked" as fact:
                settings = getattr(event, fact).settings
            case "candidate_requested" if event.candidate_requested.kind == pb.KIND_PROPOSAL:
                proposals.add(event.candidate)
            case "discovery_confirmed" | "discovery_refuted" as fact:
                if (verdict := getattr(event, fact).discovery).HasField("effect"):
                    found = rounds.setdefault(event.cause, _Round(climb_of_run(settings), len(proposals), {}))
                    found.verdicts[event.candidate] = verdict
    return list(rounds.values())


def _claims(records: Sequence[pb.Candidate], rounds: Iterable[_Round]) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """The last verdict on each candidate, and the differences of verdicts from those recomputed from the losses."""
    by_id = {record.id: record for record in records}
    claims: dict[str, Claim] = {}
    differences: list[str] = []
    for tested in rounds:
        try:
            found, differing = _recomputed(tested, by_id)
        except (ValueError, ArithmeticError) as error:
            names = ", ".join(sorted(tested.verdicts))
            differences.append(f"the claims on {names} cannot be recomputed from the log: {error}")
            continue
        claims |= found
        differences += differing
    order = {"confirmed": 0, "undecided": 1, "refuted": 2}
    ranked = sorted(claims.values(), key=lambda claim: (order.get(claim.outcome, 3), -claim.effect))
    return tuple(ranked), tuple(differences)


def _recomputed(tested: _Round, by_id: Mapping[str, pb.Candidate]) -> tuple[dict[str, Claim], list[str]]:
    """The claims of a round by candidate, and their differences. Raises ValueError for an impossible verdict."""
    involved = set(tested.verdicts)
    for verdict in tested.verdicts.values():
        involved |= {verdict.control, *verdict.controls}
        interval = verdict.interval
        numbers = [verdict.effect, verdict.p_value, verdict.adjusted_p_value]
        numbers += [interval.low, interval.high, interval.level]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a recorded number is not finite")
    if missing := sorted(involved - by_id.keys()):
        raise ValueError(f"there is no candidate {', '.join(missing)}")
    losses = {name: _losses(by_id[name], verdict.seeds) for name, verdict in tested.verdicts.items()}
    policy = replace(tested.climb.discovery, seeds=min(len(verdict.seeds) for verdict in tested.verdicts.values()))
    claims, differences = dict[str, Claim](), list[str]()
    for name, verdict in tested.verdicts.items():
        controls = {control: _losses(by_id[control], verdict.seeds) for control in verdict.controls}
        again = {finding.candidate: finding for finding in findings(losses, controls, verdict.tried, policy)}[name]
        differences += _verdict_differences(name, verdict, again)
        differences += _omissions(name, verdict, tested.proposals, by_id)
        claims[name] = _claim(by_id[name], by_id[verdict.control], verdict, tested.climb.stages[-1])
    return claims, differences


def _claim(record: pb.Candidate, control: pb.Candidate, verdict: pb.Discovery, stage: Stage) -> Claim:
    interval = Interval(verdict.interval.low, verdict.interval.high, verdict.interval.level)
    return Claim(
        candidate=record.id,
        name=record.proposal.name,
        outcome=verdict.outcome,
        control=verdict.control,
        control_name=control.proposal.name,
        effect=verdict.effect,
        interval=interval,
        expected=prediction(verdict.effect, interval, len(verdict.seeds)),
        tried=verdict.tried,
        seeds=tuple(verdict.seeds),
        stage=stage.scale,
        overrides=dict(stage.overrides),
        program=record.proposal.program,
        control_program=control.proposal.program,
    )


def _losses(record: pb.Candidate, seeds: Sequence[int]) -> dict[int, float]:
    """The losses of these seeds in verification trainings."""
    return {seed: result.loss for seed, result in _round_of(record, seeds).items() if seed in seeds}


def _verdict_differences(candidate: str, verdict: pb.Discovery, again: Finding) -> Iterator[str]:
    low, high = (None, None) if again.interval is None else (again.interval.low, again.interval.high)
    numbers = {
        "effect": (verdict.effect, again.effect),
        "interval.low": (verdict.interval.low, low),
        "interval.high": (verdict.interval.high, high),
        "p_value": (verdict.p_value, again.p),
        "adjusted_p_value": (verdict.adjusted_p_value, again.adjusted_p),
    }
    for name, (recorded, recomputed) in numbers.items():
        if recomputed is None or abs(recorded - recomputed) > TOLERANCE:
            yield f"the claim on {candidate}: {name} is recorded as {recorded:.6g}, but the losses give {recomputed}"
    if (verdict.outcome, verdict.control) != (again.outcome.value, again.control):
        yield (
            f"the claim on {candidate} is recorded as {verdict.outcome} against {verdict.control}, "
            f"but the losses give {again.outcome.value} against {again.control}"
        )


def _omissions(
    candidate: str, verdict: pb.Discovery, proposals: int, by_id: Mapping[str, pb.Candidate]
) -> Iterator[str]:
    """What a verdict leaves out of its round: proposals, controls or seeds; and whether text or precision differ."""
    claim, beside = f"the claim on {candidate}", {name: _round_of(one, verdict.seeds) for name, one in by_id.items()}
    if verdict.tried < proposals:
        yield f"{claim} is corrected for {verdict.tried} candidates, but {proposals} were proposed before it"
    baselines = {name for name, seeds in beside.items() if seeds and by_id[name].kind == pb.KIND_BASELINE}
    if omitted := sorted(baselines - set(verdict.controls)):
        yield f"{claim} omits {', '.join(omitted)}, trained again with the same seeds"
    trained = [beside[name] for name in (candidate, *verdict.controls)]
    if left_out := sorted(set(trained[0]).intersection(*trained) - set(verdict.seeds)):
        yield f"{claim} omits the seeds {', '.join(map(str, left_out))} of these trainings"
    if len({measured_on(seed) for seeds in trained for seed in seeds.values()}) > 1:
        yield f"{claim} compares losses on different text or in different precision"


def _round_of(record: pb.Candidate, seeds: Sequence[int]) -> dict[int, pb.SeedResult]:
    """All seeds of the verification trainings that have one of these seeds."""
    trainings = [{seed.seed: seed for seed in stage.training.seeds} for stage in record.verifications]
    return {seed: result for each in trainings if not each.keys().isdisjoint(seeds) for seed, result in each.items()}
