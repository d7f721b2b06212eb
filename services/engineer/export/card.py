"""The model card: measured results and their provenance."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from services.chassis.errors import printable
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.engineer.training.sizes import ModelSizes


@dataclass(frozen=True)
class Card:
    """One architecture of one run, with the chain of events that produced its result."""

    record: pb.Candidate
    status: archive_pb2.RunStatus
    links: Sequence[archive_pb2.ChainLink]
    source: str
    tokenizer: str

    @property
    def name(self) -> str:
        """The proposal's name on one line, else the candidate's id."""
        return printable(" ".join(self.record.proposal.name.split())) or self.record.id

    @property
    def kind(self) -> str:
        """The candidate's kind, such as "baseline"."""
        return pb.Kind.Name(self.record.kind).removeprefix("KIND_").lower()

    @property
    def overrides(self) -> dict[str, str]:
        """The run's overrides of its scale."""
        return dict(sorted(self.status.settings.scale_overrides.items()))

    @property
    def program_sha256(self) -> str:
        """The hash of the program."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def as_json(card: Card) -> str:
    """The card as JSON. Losses are in nats per token, times in seconds; missing measurements are null."""
    record, training, verdict = card.record, card.record.training, card.record.verdict
    content = {
        "name": card.name,
        "run": record.run,
        "candidate": record.id,
        "kind": card.kind,
        "scale": record.stage,
        "overrides": card.overrides,
        "motivation": record.proposal.motivation,
        "parent": record.proposal.parent or None,
        "components": list(record.proposal.components),
        "loss": _known(training, "loss"),
        "loss_stderr": _known(training, "loss_stderr"),
        "benchmark": _known(training, "benchmark"),
        "judge": _known(verdict, "raw"),
        "fitness": verdict.fitness.value if verdict.HasField("fitness") else None,
        "fitness_version": verdict.fitness.version if verdict.HasField("fitness") else None,
        "discovery": _discovery(record),
        "program_sha256": card.program_sha256,
        "tokenizer": card.tokenizer,
        "seeds": [_seed(seed) for seed in training.seeds],
        "chain": [
            {
                "sequence": link.sequence,
                "id": link.event.id,
                "time": link.event.time.ToJsonString(),
                "sha256": link.sha256,
                "accepted": link.accepted,
            }
            for link in card.links
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def as_markdown(card: Card, package: str, sizes: ModelSizes) -> str:
    """The card as the README of its package."""
    record, discovery = card.record, _discovery(card.record)
    imported = record.kind == pb.KIND_IMPORTED  # without anything that was measured here
    measured = [] if imported else [(seed, seed.measurements) for seed in record.training.seeds]
    lines = [
        f"# {card.name}", "", printable(record.proposal.motivation) or "A baseline of the zoo.", "",
        "```sh", "pip install .   # needs torch; uses flash-linear-attention's kernels if installed, with CUDA",
        "python example.py", "```", "",
        f"`{package}.mixer(width, heads)` is the layer, `{package}.build()` a language model with initial values, and "
        f"`{package}.load()` the trained model, if its weights were kept.", "",
        "## Measured", "",
        f"Candidate `{record.id}` ({card.kind}) of run `{record.run}` at scale `{record.stage}`"
        + (f" with {', '.join(f'{name}={value}' for name, value in card.overrides.items())}" if card.overrides else "")
        + f": {sizes.blocks} blocks of width {sizes.width}, {sizes.heads} heads, {card.tokenizer}.", "",
        "| what | value |", "|---|---|",
        *(f"| {title} | {'–' if value is None else f'{value:.4f}'} |" for title, value in _numbers(record)), "",
        "| seed | loss | bits per byte | parameters | tokens | seconds | device | precision |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {seed.seed} | {seed.loss:.4f} | {seed.bits_per_byte:.4f} | {cost.parameters:,} | {cost.tokens:,} "
          f"| {cost.seconds:.0f} | {cost.device_name or cost.device} | {cost.precision} |"
          for seed, cost in measured), "",
        "## Claim", "", discovery[0].upper() + discovery[1:] + ".", "",
        "## Provenance", "",
        f"Program: SHA-256 `{card.program_sha256}`, "
        f"{'as it was published' if imported else 'executed as it was measured'}. "
        f"Parent: {record.proposal.parent or 'none, it is a root'}.", "",
        *(f"Seed {seed.seed}: data `{cost.data_fingerprint}`, sandbox {cost.isolation}, "
          f"{', '.join(f'{name} {version}' for name, version in sorted(cost.versions.items()))}"
          + (f", weights SHA-256 `{seed.checkpoint.sha256}`." if seed.HasField("checkpoint") else ".")
          for seed, cost in measured), "",
        "| event | time | SHA-256 |", "|---|---|---|",
        *(f"| {link.event.id} | {link.event.time.ToJsonString()} | `{link.sha256}` |"
          for link in card.links if link.accepted), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _numbers(record: pb.Candidate) -> list[tuple[str, float | None]]:
    training, verdict = record.training, record.verdict
    fitness = verdict.fitness if verdict.HasField("fitness") else None
    return [
        ("held-out loss, nats per token", _known(training, "loss")),
        ("its standard error over seeds", _known(training, "loss_stderr")),
        ("mean accuracy of the benchmarks", _known(training, "benchmark")),
        ("judge, 1 to 10", _known(verdict, "raw")),
        (f"fitness ({fitness.version if fitness and fitness.version else 'absent'})", fitness and fitness.value),
        *((f"{score.task}, seed {seed.seed}", score.value) for seed in training.seeds for score in seed.scores),
    ]


def _known(message: Message, field: str) -> float | None:
    return getattr(message, field) if message.HasField(field) else None


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


def _seed(result: pb.SeedResult) -> dict[str, object]:
    measurements = result.measurements
    return {
        "seed": result.seed,
        "loss": result.loss or None,
        "loss_stderr": _known(result, "loss_stderr"),
        "bits_per_byte": result.bits_per_byte or None,
        "tasks": {score.task: score.value for score in result.scores},
        "parameters": measurements.parameters or None,
        "tokens": measurements.tokens or None,
        "seconds": measurements.seconds or None,
        "device": measurements.device_name or measurements.device,
        "precision": measurements.precision,
        "isolation": measurements.isolation,
        "data_fingerprint": measurements.data_fingerprint,
        "versions": dict(measurements.versions),
        "weights_sha256": result.checkpoint.sha256 if result.HasField("checkpoint") else None,
    }
