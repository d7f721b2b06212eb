"""Records as the texts that a prompt is filled with."""

from collections.abc import Iterator, Sequence

from services.contracts import candidate_pb2 as pb
from services.contracts import cognition_pb2
from services.researcher.draft import Refusal

NOTHING = "None."


def record_text(record: pb.Candidate) -> str:
    """Curve, scores and verdict of a candidate in numbers, then its motivation and analysis."""
    lines = [numbers_text(record)] if record.training.HasField("loss") else []
    for title, text in (("Motivation", record.proposal.motivation), ("Results", record.analysis.results),
                        ("Next", record.analysis.synthesis)):  # fmt: skip
        if text:
            lines.append(f"{title}: {text}")
    return "\n".join(lines) or "Nothing was measured yet."


def numbers_text(record: pb.Candidate) -> str:
    """Curve, scores and verdict alone; what was not measured is left out."""
    training, verdict = record.training, record.verdict
    lines = [f"Held-out loss {training.loss:.4f} nats per token over {len(training.seeds)} seed(s)."]
    lines += [f"Mean accuracy {training.benchmark:.3f}."] if training.HasField("benchmark") else []
    lines += [line for seed in training.seeds[:1] for line in _of_seed(seed)]
    lines += [f"Fitness {verdict.fitness.value:.4f}."] if verdict.HasField("fitness") else []
    lines += [f"Judge {verdict.raw:.1f} of 10."] if verdict.HasField("raw") else []
    return "\n".join(lines)


def _of_seed(seed: pb.SeedResult) -> Iterator[str]:
    if seed.scores:
        yield "Scores: " + ", ".join(f"{one.task} {one.value:.3f}" for one in seed.scores) + "."
    if curve := curve_text(seed):
        yield f"Curve (step: training loss): {curve}."
    if seed.measurements.parameters:
        yield f"Parameters {seed.measurements.parameters:,}."


def curve_text(seed: pb.SeedResult, points: int = 12) -> str:
    """A curve in a dozen points."""
    known = [one for one in seed.curve if one.HasField("train_loss")]
    step = max(1, len(known) // points)
    return ", ".join(f"{one.step}: {one.train_loss:.3f}" for one in known[::step])


def references_text(references: Sequence[pb.Candidate], summaries: Sequence[str]) -> str:
    """Names with their numbers and summaries."""
    pairs = zip(references, summaries, strict=True)
    return "\n\n".join(_reference_text(one, text) for one, text in pairs) or NOTHING


def _reference_text(one: pb.Candidate, summary: str) -> str:
    numbers = f"{numbers_text(one)}\n" if one.training.HasField("loss") else ""
    return f"## {one.proposal.name} ({one.id})\n{numbers}{summary}"


def cognition_text(entries: Sequence[cognition_pb2.CognitionEntry]) -> str:
    """Entries with their ids, so that ideas can name their source."""
    return (
        "\n\n".join(f"[{one.id}] {one.title} ({one.year}): {one.design_insight} {one.guidance}" for one in entries)
        or NOTHING
    )


def rejections_text(rejections: Sequence[pb.Candidate]) -> str:
    """What ended without a score, newest first."""
    return (
        "\n".join(
            f"- {one.proposal.name or one.id}: {one.rejection.stage}: {one.rejection.reason}" for one in rejections
        )
        or NOTHING
    )


def refusals_text(refusals: Sequence[Refusal]) -> str:
    """This seat's own refused drafts; the last one whole, since it is to be written again or left behind."""
    if not refusals:
        return NOTHING
    lines = [f"- {one.draft.name}: {one.sentence}" for one in refusals]
    last = refusals[-1]
    if last.kind == "repeat":
        lines.append("Your last draft is a repeat: propose an idea that is orthogonal to what it repeats.")
    elif last.kind == "drawn":
        lines.append("Your last draft is sound: propose another one, whose idea is orthogonal to it.")
    else:
        lines += [f"  {one.probe}: {one.message} {dict(one.evidence)}" for one in last.verdicts]
        lines.append(f"Your last draft, which you may repair:\n```python\n{last.draft.program}\n```")
    return "\n".join(lines)
