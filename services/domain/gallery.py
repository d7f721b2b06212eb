"""The gallery: confirmed discoveries, each with a model card of claim, evidence, cost, lineage and comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.domain import lineage
from services.domain.discovery import Finding, Outcome


@dataclass(frozen=True, slots=True)
class Cost:
    """What finding and verifying one candidate took; ``None`` is not measured."""

    tokens_trained: int | None = None
    gpu_hours: float | None = None
    wall_hours: float | None = None
    money: float | None = None
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a card needs to know of a candidate beside the finding. Sizes are counts, speed is tokens per second."""

    name: str
    motivation: str
    stage: str
    data_fingerprint: str
    parameters: int | None
    tokens_per_second: float | None
    cost: Cost


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One confirmed discovery: sentences for people, and the finding and facts that they are made from."""

    candidate: str
    claim: str
    evidence: tuple[str, ...]
    cost: tuple[str, ...]
    lineage: tuple[str, ...]
    """Names from the root to the candidate."""
    compared: str
    finding: Finding
    facts: ModelFacts


def gallery(
    findings: Sequence[Finding], facts: Mapping[str, ModelFacts], parents: lineage.Parents, controls: Sequence[str]
) -> tuple[ModelCard, ...]:
    """The cards of all confirmed findings, greatest effect first.

    ``controls`` names every control that was verified beside them. Raises ``KeyError`` for a candidate without facts.
    """
    confirmed = [one for one in findings if one.outcome is Outcome.CONFIRMED]
    ordered = sorted(confirmed, key=lambda one: (-(one.effect or 0.0), one.candidate))
    return tuple(card(one, facts, parents, controls) for one in ordered)


def card(
    finding: Finding, facts: Mapping[str, ModelFacts], parents: lineage.Parents, controls: Sequence[str]
) -> ModelCard:
    """The card of one finding. Raises ``ValueError`` when it was not tested: there is nothing to claim."""
    known = facts[finding.candidate]
    path = reversed(lineage.path_to_root(parents, finding.candidate))
    return ModelCard(
        candidate=finding.candidate,
        claim=_claim(finding, known),
        evidence=_evidence(finding, known),
        cost=_cost(known),
        lineage=tuple(facts[one].name if one in facts else one for one in path),
        compared=f"Strongest of {len(controls)} controls ({', '.join(controls)}): {finding.control}.",
        finding=finding,
        facts=known,
    )


def to_markdown(one: ModelCard) -> str:
    """The card as a page section."""
    lines = [f"## {one.facts.name}", "", one.claim, "", one.facts.motivation, "", "### Evidence", ""]
    lines += [f"- {line}" for line in (*one.evidence, one.compared)]
    lines += ["", "### Cost", "", *(f"- {line}" for line in one.cost or ("Not measured.",))]
    return "\n".join([*lines, "", "### Lineage", "", " → ".join(one.lineage), ""])


def _claim(finding: Finding, facts: ModelFacts) -> str:
    if finding.effect is None or finding.interval is None:
        raise ValueError(f"finding of {finding.candidate} has no effect to claim: it was not tested")
    return (
        f"At stage {facts.stage}, {facts.name} has a held-out loss {finding.effect:.4f} nats below {finding.control} "
        f"(95% interval {finding.interval.low:.4f} to {finding.interval.high:.4f})."
    )


def _evidence(finding: Finding, facts: ModelFacts) -> tuple[str, ...]:
    return (
        f"{len(finding.seeds)} fresh seeds, paired: {', '.join(map(str, finding.seeds))}.",
        f"One-sided p {finding.p:.3g}, adjusted {finding.adjusted_p:.3g} for {finding.tried} candidates tried.",
        f"Held-out data {facts.data_fingerprint}, which no selection has seen.",
    )


def _cost(facts: ModelFacts) -> tuple[str, ...]:
    cost = facts.cost
    lines = [
        (facts.parameters, "{:,} parameters."),
        (facts.tokens_per_second, "{:,.0f} tokens per second in training."),
        (cost.tokens_trained, "{:,} tokens trained on, all seeds and stages."),
        (cost.gpu_hours, "{:.3g} GPU-hours."),
        (cost.wall_hours, "{:.3g} hours of wall time."),
        (cost.money, f"{{:.2f}} {cost.currency} for language models."),
    ]
    return tuple(text.format(value) for value, text in lines if value is not None)
