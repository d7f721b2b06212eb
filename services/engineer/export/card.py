"""The model card: measured results and their provenance."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.engineer.training.sizes import ModelSizes


@dataclass(frozen=True)
class Seed:
    """One training. Loss in nats per token, time in seconds."""

    seed: int
    loss: float
    loss_stderr: float | None
    bits_per_byte: float
    tasks: dict[str, float]
    parameters: int
    tokens: int
    seconds: float
    device: str
    precision: str
    isolation: str
    data_fingerprint: str
    versions: dict[str, str]
    weights_sha256: str | None


@dataclass(frozen=True)
class Event:
    """One event of the chain that produced the result."""

    sequence: int
    id: str
    time: str
    sha256: str
    accepted: bool


@dataclass(frozen=True)
class Card:
    """One architecture of one run. Missing measurements are None."""

    name: str
    run: str
    candidate: str
    kind: str
    scale: str
    overrides: dict[str, str]
    motivation: str
    parent: str | None
    components: tuple[str, ...]
    loss: float | None
    loss_stderr: float | None
    benchmark: float | None
    judge: float | None
    fitness: float | None
    fitness_version: str | None
    discovery: str
    program_sha256: str
    tokenizer: str
    seeds: tuple[Seed, ...]
    chain: tuple[Event, ...]


def card_of(record: pb.Candidate, status: archive_pb2.RunStatus, links: Sequence[archive_pb2.ChainLink],
            source: str, tokenizer: str) -> Card:  # fmt: skip
    """The card of a candidate."""
    training, verdict = record.training, record.verdict
    return Card(
        name=record.proposal.name or record.id,
        run=record.run,
        candidate=record.id,
        kind=pb.Kind.Name(record.kind).removeprefix("KIND_").lower(),
        scale=record.stage,
        overrides=dict(sorted(status.settings.scale_overrides.items())),
        motivation=record.proposal.motivation,
        parent=record.proposal.parent or None,
        components=tuple(record.proposal.components),
        loss=training.loss if training.HasField("loss") else None,
        loss_stderr=training.loss_stderr if training.HasField("loss_stderr") else None,
        benchmark=training.benchmark if training.HasField("benchmark") else None,
        judge=verdict.raw if verdict.HasField("raw") else None,
        fitness=verdict.fitness.value if verdict.HasField("fitness") else None,
        fitness_version=verdict.fitness.version if verdict.HasField("fitness") else None,
        discovery=_discovery(record),
        program_sha256=hashlib.sha256(source.encode()).hexdigest(),
        tokenizer=tokenizer,
        seeds=tuple(_seed(seed) for seed in training.seeds),
        chain=tuple(
            Event(link.sequence, link.event.id, link.event.time.ToJsonString(), link.sha256, link.accepted)
            for link in links
        ),
    )


def as_json(card: Card) -> str:
    """The card as JSON."""
    return json.dumps(asdict(card), indent=2, ensure_ascii=False)


def as_markdown(card: Card, package: str, sizes: ModelSizes) -> str:
    """The card as the README of its package."""
    lines = [
        f"# {card.name}", "", card.motivation or "A baseline of the zoo.", "",
        "```sh", "pip install .   # needs torch; uses flash-linear-attention's kernels if installed, with CUDA",
        "python example.py", "```", "",
        f"`{package}.mixer(width, heads)` is the layer, `{package}.build()` a language model with initial values, and "
        f"`{package}.load()` the trained model, if its weights were kept.", "",
        "## Measured", "",
        f"Candidate `{card.candidate}` ({card.kind}) of run `{card.run}` at scale `{card.scale}`"
        + (f" with {', '.join(f'{name}={value}' for name, value in card.overrides.items())}" if card.overrides else "")
        + f": {sizes.blocks} blocks of width {sizes.width}, {sizes.heads} heads, {card.tokenizer}.", "",
        "| what | value |", "|---|---|",
        *(f"| {title} | {'–' if value is None else f'{value:.4f}'} |" for title, value in _numbers(card)), "",
        "| seed | loss | bits per byte | parameters | tokens | seconds | device | precision |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {seed.seed} | {seed.loss:.4f} | {seed.bits_per_byte:.4f} | {seed.parameters:,} | {seed.tokens:,} "
          f"| {seed.seconds:.0f} | {seed.device} | {seed.precision} |" for seed in card.seeds), "",
        "## Claim", "", card.discovery[0].upper() + card.discovery[1:] + ".", "",
        "## Provenance", "",
        f"Program: SHA-256 `{card.program_sha256}`, executed as it was measured. "
        f"Parent: {card.parent or 'none, it is a root'}.", "",
        *(f"Seed {seed.seed}: data `{seed.data_fingerprint}`, sandbox {seed.isolation}, "
          f"{', '.join(f'{name} {version}' for name, version in sorted(seed.versions.items()))}"
          + (f", weights SHA-256 `{seed.weights_sha256}`." if seed.weights_sha256 else ".") for seed in card.seeds), "",
        "| event | time | SHA-256 |", "|---|---|---|",
        *(f"| {event.id} | {event.time} | `{event.sha256}` |" for event in card.chain if event.accepted), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _numbers(card: Card) -> list[tuple[str, float | None]]:
    return [
        ("held-out loss, nats per token", card.loss),
        ("its standard error over seeds", card.loss_stderr),
        ("mean accuracy of the benchmarks", card.benchmark),
        ("judge, 1 to 10", card.judge),
        (f"fitness ({card.fitness_version or 'absent'})", card.fitness),
        *((f"{task}, seed {seed.seed}", value) for seed in card.seeds for task, value in seed.tasks.items()),
    ]  # fmt: skip


def _discovery(record: pb.Candidate) -> str:
    if not record.HasField("discovery"):
        return "not tried: one search result, no verified claim"
    discovery = record.discovery
    outcome = "confirmed" if discovery.confirmed else "not confirmed"
    if not discovery.HasField("effect"):
        return f"{outcome}: not tested ({discovery.reason or discovery.method})"
    return (
        f"{outcome}: {discovery.effect:+.4f} nats per token against {discovery.control}, adjusted p "
        f"{discovery.adjusted_p_value:.3g} of {discovery.tried} tried ({discovery.method})"
    )


def _seed(result: pb.SeedResult) -> Seed:
    measurements = result.measurements
    return Seed(
        seed=result.seed,
        loss=result.loss,
        loss_stderr=result.loss_stderr if result.HasField("loss_stderr") else None,
        bits_per_byte=result.bits_per_byte,
        tasks={score.task: score.value for score in result.scores},
        parameters=measurements.parameters,
        tokens=measurements.tokens,
        seconds=measurements.seconds,
        device=measurements.device_name or measurements.device,
        precision=measurements.precision,
        isolation=measurements.isolation,
        data_fingerprint=measurements.data_fingerprint,
        versions=dict(measurements.versions),
        weights_sha256=result.checkpoint.sha256 if result.HasField("checkpoint") else None,
    )
