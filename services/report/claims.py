"""The claims of a run that were tested on fresh seeds: verdicts, model cards, and their texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.archive.policies import climb_of_run
from services.contracts import archive_pb2, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.discovery import Finding, Outcome, detectable
from services.domain.lineage import path_to_root
from services.domain.promotion import Result
from services.domain.statistics import Interval, paired_test
from services.report.rows import bounds, interval_text, name_of


def claims(records: Sequence[pb.Candidate]) -> list[dict[str, object]]:
    """Every verdict on a finalist, confirmed ones first; effect in nats per token over the strongest control."""
    verdicts = [_claim(record) for record in records if record.HasField("discovery")]
    return sorted(verdicts, key=lambda claim: (not claim["confirmed"], str(claim["id"])))


@dataclass(frozen=True)
class ModelCard:
    """One confirmed discovery in sentences; `lineage` holds names from the root to the candidate."""

    id: str
    name: str
    claim: str
    evidence: tuple[str, ...]
    compared: str
    cost: tuple[str, ...]
    lineage: tuple[str, ...]
    motivation: str


def cards(status: archive_pb2.RunStatus, records: Sequence[pb.Candidate]) -> list[ModelCard]:
    """The model cards of a run's confirmed discoveries, greatest effect first."""
    by_id = {record.id: record for record in records}
    tested = [record for record in records if record.discovery.HasField("interval")]
    confirmed = [record for record in tested if outcome_of(record.discovery) == "confirmed"]
    confirmed.sort(key=lambda record: (by_effect(record), record.id))
    return [_card(record, by_id, status) for record in confirmed]


def _card(record: pb.Candidate, by_id: Mapping[str, pb.Candidate], status: archive_pb2.RunStatus) -> ModelCard:
    verdict, name, stage = record.discovery, name_of(record), record.discovery.stage or status.settings.scale
    control, *controls = (name_in(by_id, candidate) for candidate in (verdict.control, *verdict.controls))
    trainings = [record.training, *(verification.training for verification in record.verifications)]
    seeds = [seed for training in trainings for seed in training.seeds]
    measured = [seed.measurements for seed in seeds]
    claimed = [seed.measurements for seed in seeds if seed.seed in verdict.seeds]
    first = next(iter([*claimed, *measured]), None)  # of the stage of the claim
    parents = {each.id: each.proposal.parent if each.proposal.parent in by_id else None for each in by_id.values()}
    return ModelCard(
        id=record.id,
        name=name,
        claim=f"At stage {stage}, {name} has a held-out loss {verdict.effect:.4f} nats below {control} "
        f"(95% interval {verdict.interval.low:.4f} to {verdict.interval.high:.4f}).",
        evidence=(
            f"{len(verdict.seeds)} fresh seeds, paired: {', '.join(map(str, verdict.seeds))}.",
            f"One-sided p {verdict.p_value:.3g}, adjusted {verdict.adjusted_p_value:.3g} for {verdict.tried} trials.",
            f"Held-out text that no selection has seen, of data {first.data_fingerprint[:16] if first else 'unknown'}.",
        ),
        compared=f"Strongest of {len(controls)} controls ({', '.join(controls)}): {control}.",
        cost=_cost(record, first, measured),
        lineage=tuple(name_in(by_id, candidate) for candidate in reversed(path_to_root(parents, record.id))),
        motivation=record.proposal.motivation,
    )


def _cost(record: pb.Candidate, first: pb.Measurements | None, measured: Sequence[pb.Measurements]) -> tuple[str, ...]:
    """What finding and verifying the candidate took, without what was not measured."""
    speed = first.tokens_per_second if first and first.HasField("tokens_per_second") else None
    gpu = [measurements.gpu_seconds for measurements in measured if measurements.HasField("gpu_seconds")]
    prices = [call.price for call in record.calls if call.HasField("price")]
    lines = [
        ("{:,} parameters.", first.parameters if first else None),
        ("{:,.0f} tokens per second in training.", speed),
        ("{:,} tokens trained on, all seeds and stages.", sum(each.tokens for each in measured) or None),
        ("{:.3g} GPU-hours.", sum(gpu) / 3600 if gpu else None),
        ("{:.3g} hours of wall time.", sum(each.seconds for each in measured) / 3600 if measured else None),
        ("{:.2f} USD for language models.", sum(prices) if prices else None),
    ]
    return tuple(text.format(value) for text, value in lines if value is not None)


def card_markdown(card: ModelCard) -> str:
    """The card as a page section."""
    lines = [f"## {card.name}", "", card.claim, "", card.motivation, "", "### Evidence", ""]
    lines += [f"- {line}" for line in (*card.evidence, card.compared)]
    lines += ["", "### Cost", "", *(f"- {line}" for line in card.cost or ("Not measured.",))]
    return "\n".join([*lines, "", "### Lineage", "", " → ".join(card.lineage), ""])


def sentences(records: Sequence[pb.Candidate], settings: events_pb2.RunSettings | None = None) -> list[str]:
    """The findings of a run with the evidence; with its settings also candidates outside the budget, and the power."""
    claimed = [record for record in records if record.HasField("discovery")]
    tried = sum(record.kind == pb.KIND_PROPOSAL for record in records)
    if not claimed:
        outside = "" if settings is None else _outside(records, settings)
        return [f"Found: nothing to claim. Of {tried} candidates none was promoted to a second training.{outside}"]
    confirmed = sum(outcome_of(record.discovery) == "confirmed" for record in claimed)
    by_id = {record.id: record for record in records}
    finalists = "1 finalist" if len(claimed) == 1 else f"{len(claimed)} finalists"
    lines = [f"Found: {confirmed} confirmed of {finalists}, out of {tried} candidates tried."]
    lines += [_sentence(record, by_id) for record in sorted(claimed, key=by_effect)]
    level = None if settings is None else climb_of_run(settings).discovery.level
    gain = None if level is None else detectable([finding_of(record) for record in claimed], level)
    if gain is not None:
        lines.append(
            f"  A true gain of {gain:.4f} nats over the strongest control would have been confirmed with a chance of "
            "80 %, with less if others are as strong."
        )
    return lines


def outcome_of(discovery: pb.Discovery) -> str:
    """ "confirmed", "refuted" or "undecided"; events of older versions distinguish only two of them."""
    return discovery.outcome or ("confirmed" if discovery.confirmed else "undecided")


def by_effect(record: pb.Candidate) -> tuple[bool, float]:
    """The sorting key of claims: greatest effect first, untested ones last."""
    return not record.discovery.HasField("effect"), -record.discovery.effect


def finding_of(record: pb.Candidate) -> Finding:
    """The verdict as a domain object. Numbers are None if nothing was tested."""
    discovery, interval = record.discovery, record.discovery.interval
    tested = discovery.HasField("interval")
    return Finding(
        candidate=record.id,
        outcome=Outcome(outcome_of(discovery)),
        reason=discovery.reason or discovery.method,
        control=discovery.control or None,
        seeds=tuple(discovery.seeds),
        tried=discovery.tried,
        effect=discovery.effect if tested else None,
        interval=Interval(interval.low, interval.high, interval.level) if tested else None,
        p=discovery.p_value if tested else None,
        adjusted_p=discovery.adjusted_p_value if tested else None,
        controls=tuple(discovery.controls),
    )


def name_in(records: Mapping[str, pb.Candidate], candidate: str) -> str:
    """A candidate's name, or its id if the run does not have it."""
    return name_of(records[candidate]) if candidate in records else candidate


def _claim(record: pb.Candidate) -> dict[str, object]:
    finding = finding_of(record)
    low, high = bounds(finding.interval)
    return {
        "id": record.id, "name": record.proposal.name, "confirmed": finding.outcome is Outcome.CONFIRMED,
        "outcome": finding.outcome.value, "effect": finding.effect, "low": low, "high": high,
        "control": finding.control, "p": finding.p, "adjusted_p": finding.adjusted_p, "tried": finding.tried,
        "seeds": list(finding.seeds), "controls": list(finding.controls), "reason": finding.reason,
        "method": record.discovery.method,
    }  # fmt: skip


def _sentence(record: pb.Candidate, by_id: dict[str, pb.Candidate]) -> str:
    finding = finding_of(record)
    head = f"  {finding.outcome.value:<10} {name_of(record)} ({record.id})"
    if finding.effect is None or finding.interval is None or finding.adjusted_p is None:
        return f"{head}: {finding.reason}"
    side = "below" if finding.effect >= 0 else "above"
    control = by_id.get(finding.control or "")
    elsewhere_gain = None if control is None else other_text_gain(record, control)
    elsewhere = ""
    if elsewhere_gain is not None:
        source, gain, interval = elsewhere_gain
        elsewhere = f"; on text of another source ({source}): {gain:+.4f} {interval_text(*bounds(interval))}"
    return (
        f"{head}: held-out loss {abs(finding.effect):.4f} nats {side} {name_in(by_id, finding.control or '')}, the "
        f"strongest of {len(finding.controls)} controls; gain {finding.effect:+.4f}, 95 % interval "
        f"{interval_text(*bounds(finding.interval))} over {len(finding.seeds)} fresh seeds; "
        f"adjusted p {finding.adjusted_p:.3g} for {finding.tried} tried{elsewhere}"
    )


def other_text_gain(record: pb.Candidate, control: pb.Candidate) -> tuple[str, float, Interval] | None:
    """The gain on text from another source: its name, the mean over the claim's seeds and its interval.

    None for fewer than two common seeds that were scored there, and for different sources.
    """
    losses = [
        {
            seed.seed: seed
            for verification in each.verifications
            for seed in verification.training.seeds
            if seed.HasField("other_text_loss") and seed.seed in record.discovery.seeds
        }
        for each in (record, control)
    ]
    shared = sorted(losses[0].keys() & losses[1].keys())
    sources = {seeds[seed].other_text for seeds in losses for seed in shared}
    if len(shared) < 2 or len(sources) > 1:
        return None
    test = paired_test([losses[1][seed].other_text_loss - losses[0][seed].other_text_loss for seed in shared])
    return sources.pop(), test.effect, test.interval()


def _outside(records: Sequence[pb.Candidate], settings: events_pb2.RunSettings) -> str:
    """How many scored proposals the budget of parameters and FLOPs excluded, in a sentence."""
    rules = climb_of_run(settings)
    root = next((record for record in records if record.request.baseline == settings.baselines[0]), None)
    if rules.promotion is None or root is None or (baseline := _size(root)) is None:
        return ""
    scored = (record for record in records if record.kind == pb.KIND_PROPOSAL and record.verdict.HasField("fitness"))
    sizes = [size for record in scored if (size := _size(record)) is not None]
    excluded = sum(not rules.promotion.budget.admits(size, baseline) for size in sizes)
    return f" Outside the budget of parameters and FLOPs relative to the root: {excluded}." if excluded else ""


def _size(record: pb.Candidate) -> Result | None:
    """The measurements that the budget bounds; None for untrained candidates."""
    if not record.training.seeds or not record.training.HasField("loss"):
        return None
    measured = record.training.seeds[0].measurements
    flops = measured.flops_per_token if measured.HasField("flops_per_token") else None
    loss = record.training.loss
    return Result(record.id, -loss, loss, parameters=measured.parameters or None, flops=flops)
