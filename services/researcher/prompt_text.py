"""Records, measurements and refusals as prompt text; unmeasured values are omitted."""

import ast
import difflib
import math
from collections.abc import Iterator, Sequence

from services.archive.policies import climb_of_run
from services.archive.scoring import measures_of, objectives_of, program_of, seed_noise, stopped_early
from services.contracts import candidate_pb2 as pb
from services.contracts import checker_pb2, cognition_pb2, events_pb2
from services.domain.fitness import INVESTIGATE, PAPER, PROBE, leakage_policy, suspicion
from services.domain.promotion import Budget, Limit
from services.domain.statistics import LEVEL, student_quantile
from services.domain.syntax import Unreadable, parse, without_docstrings
from services.researcher.draft import Draft, Refusal, struct_json

NOTHING = "None."
BOARD_BEST = 40  # rows by loss
BOARD_NEWEST = 20  # further rows, newest first
LESSON_CHARACTERS = 90
BOARD_COMPONENTS = 4
DIFFERENCE_LINES = 80
CURVE_POINTS = 12


def scale_text(scale: checker_pb2.ScaleDescription | None) -> str:
    """The conditions of a training as the engineer describes them: sizes, budget, recipe, tolerance, usable modules."""
    if scale is None:
        return "The engineer did not describe the scale."
    lines = [
        f"- model: {scale.blocks} blocks of mixer and SwiGLU({scale.feed_forward}), RMSNorm before each; hidden_size "
        f"{scale.width}, num_heads {scale.heads}, so {scale.width // max(1, scale.heads)} dimensions per head; "
        f"vocabulary {scale.vocabulary}",
        f"- data: {scale.corpus}; one token is one {scale.unit or 'token'}; context {scale.context}",
        f"- training: {scale.steps:,} steps of {scale.batch} × {scale.context} tokens = {scale.tokens:,} tokens; "
        f"{scale.optimiser}; precision {scale.precision} on {scale.device}",
        f"- limits: {scale.wall_seconds:.0f} s and {scale.memory_bytes / 2**30:.1f} GiB for one training",
        f"- initialisation: {scale.initialisation}",
    ]
    if scale.layers not in ("", "in every layer"):
        lines.append(f"- layers: the candidate stands {scale.layers}")
    if scale.modules:
        unit = (
            f" (behind a name: its cost on this machine, forward and backward on {scale.cost_tokens:,} tokens, where a "
            f"nn.Linear({scale.width}, {scale.width}) costs 1, {scale.linear_seconds * 1e3:.2g} ms)"
        )
        lines.append(f"- importable from fla here{unit if scale.costs else ''}: {'; '.join(_module_text(scale))}")
    return "\n".join(lines)


def _module_text(scale: checker_pb2.ScaleDescription) -> Iterator[str]:
    """Each module with its names and what they cost; names of one function stand together."""
    for module in scale.modules:
        package, _, names = module.partition(": ")
        by_cost: dict[float | str, list[str]] = {}
        for name in names.split(", "):
            by_cost.setdefault(scale.costs.get(name, name), []).append(name)
        texts = [
            " = ".join(parts) + (f" {cost:.1f}" if isinstance(cost, float) else "") for cost, parts in by_cost.items()
        ]
        yield f"{package}: {', '.join(texts)}"


SUSPECTED = {
    INVESTIGATE: "is examined (longer probes, another seed, text of another source) and kept where it holds: do not "
    "avoid it",
    PROBE: "is probed more thoroughly and kept where the probes pass: do not avoid it",
    PAPER: "is rejected as a leak by the policy of this run",
}


def limits_text(
    settings: events_pb2.RunSettings, root: pb.Candidate | None, controls: Sequence[pb.Candidate] = ()
) -> str:
    """The limits on size and cost, the loss below which a leak is suspected, and the run's further objectives."""
    text = _sizes_text(settings, root)
    floor = "far below all others"
    if root is not None and root.training.HasField("loss") and root.training.loss > 0:
        losses = [control.training.loss for control in controls if control.training.HasField("loss")]
        floor = f"below {suspicion(root.training.loss, root.training.loss, losses).floor:.4f}"
    text += f"\n- leakage: a loss {floor} {SUSPECTED[leakage_policy(settings.policies.leakage)]}"
    if objectives := objectives_of(settings):
        names = [objective.name for objective in objectives]
        measured = measures_of(root) if root is not None else {}
        values = [f"{name} {value:,.6g}" for name in names if (value := measured.get(name)) is not None]
        root_values = f" (the root: {', '.join(values)})" if values else ""
        text += f"\n- objectives: {', '.join(names)}{root_values}"
        text += "; a design is kept that no other beats or equals in all of them"
    return text


def _sizes_text(settings: events_pb2.RunSettings, root: pb.Candidate | None) -> str:
    policy = climb_of_run(settings).promotion
    budget = policy.budget if policy else Budget(None, None)
    measured = root.training.seeds[0].measurements if root is not None and root.training.seeds else pb.Measurements()
    limits = (
        ("parameters", budget.parameters, measured.parameters),
        ("FLOPs per token", budget.flops, measured.flops_per_token),
    )
    parts = [_limit_text(unit, limit, value) for unit, limit, value in limits if limit is not None]
    if not parts:
        return "- size: no limit; what a gain costs in parameters and FLOPs is recorded beside it"
    outside = "is trained again at the width that comes nearest" if budget.match else "is recorded, not verified"
    return f"- size: {' and '.join(parts)}; what has more or fewer parameters {outside}"


def _limit_text(unit: str, limit: Limit, value: float) -> str:
    share = f"up to {limit.share:.0%} more than" if limit.upwards else f"{limit.share:.0%} of"
    if not value:
        return f"{unit} within {share} the root's"
    upper = f"{value * (1 + limit.share):,.0f}"
    bounds = f"at most {upper}" if limit.upwards else f"{value * (1 - limit.share):,.0f} to {upper}"
    return f"{bounds} {unit} (the root has {value:,.0f})"


FOCI = (
    "what is written into the memory and what is erased",
    "how a read finds what it needs: keys, queries and their contexts",
    "the path of the token itself and its nearest neighbours past the memory",
    "how the read is trusted, normalised and gated on its way out",
    "doing the same with less: a part that can go, or two that can be one",
)


def focus_text(number: int) -> str:
    """The focus of a seat by its number, so that concurrent seats do not draft the same."""
    return (
        f"Other seats propose from the same run at this moment. This is seat {number}: of several ideas that seem "
        f"equally good, take one about {FOCI[number % len(FOCI)]}."
    )


def record_text(record: pb.Candidate, compared: Sequence[pb.Candidate] = ()) -> str:
    """The numbers, motivation and analysis of a candidate; with `compared`, losses by part."""
    lines = [numbers_text(record)] if record.training.HasField("loss") else []
    lines += [parts] if compared and (parts := parts_text(record, compared)) else []
    sections = (
        ("Motivation", record.proposal.motivation),
        ("Results", record.analysis.results),
        ("Explanation", record.analysis.explanation),
        ("Judge", record.verdict.justification),
        ("Next", record.analysis.synthesis),
    )
    lines += [f"{title}: {text}" for title, text in sections if text]
    return "\n".join(lines) or "Nothing was measured yet."


def numbers_text(record: pb.Candidate) -> str:
    """Loss, scores, curve, size, fitness and the judge's verdict."""
    training, verdict = record.training, record.verdict
    lines = [f"Held-out loss {_loss_text(record)} nats per token over {len(training.seeds)} seed(s)."]
    lines += [f"Mean accuracy {training.benchmark:.3f}."] if training.HasField("benchmark") else []
    lines += [f"Scores: {', '.join(scores)}."] if (scores := _score_texts(training)) else []
    for seed in training.seeds[:1]:
        lines += [f"Curve (step: training loss): {curve}."] if (curve := curve_text(seed)) else []
        lines += [f"Parameters {seed.measurements.parameters:,}."] if seed.measurements.parameters else []
    lines += [f"Fitness {verdict.fitness.value:.4f}."] if verdict.HasField("fitness") else []
    lines += [f"Judge {verdict.raw:.1f} of 10."] if verdict.HasField("raw") else []
    return "\n".join(lines)


def parts_text(record: pb.Candidate, compared: Sequence[pb.Candidate]) -> str:
    """The loss by position and kind of token, with shares and the lowest loss of `compared`; empty if unmeasured."""
    lowest: dict[str, float] = {}
    trained = [
        seed for candidate in compared if not candidate.HasField("rejection") for seed in candidate.training.seeds[:1]
    ]
    for part in (part for seed in trained for part in seed.part_losses):
        lowest[part.part] = min(part.loss, lowest.get(part.part, math.inf))
    own = [part for seed in record.training.seeds[:1] for part in seed.part_losses]
    texts = [
        f"{part.part} ({part.share:.0%}) {part.loss:.3f}"
        + (f" (lowest {lowest[part.part]:.3f})" if lowest.get(part.part, part.loss) < part.loss else "")
        for part in own
    ]
    return f"Loss by position and kind of token (share): {', '.join(texts)}." if texts else ""


def _score_texts(training: pb.Training) -> list[str]:
    """Each task's mean over the seeds, and the score of guessing if it is known."""
    scores: dict[str, list[pb.TaskScore]] = {}
    for score in (score for seed in training.seeds for score in seed.scores):
        scores.setdefault(score.task, []).append(score)
    return [
        f"{task} {math.fsum(score.value for score in of_task) / len(of_task):.3f}"
        + (f" (guessing: {of_task[0].chance:.3f})" if of_task[0].HasField("chance") else "")
        for task, of_task in scores.items()
    ]


def curve_text(seed: pb.SeedResult) -> str:
    """About `CURVE_POINTS` points of the training curve."""
    measured = [point for point in seed.curve if point.HasField("train_loss")]
    step = max(1, len(measured) // CURVE_POINTS)
    return ", ".join(f"{point.step}: {point.train_loss:.3f}" for point in measured[::step])


def noise_text(records: Sequence[pb.Candidate]) -> str:
    """The smallest difference in loss above the noise, by the pooled variance of records with several seeds."""
    if (noise := seed_noise(records)) is None:
        return "Seed noise is not measured yet: treat small differences between single seeds as chance."
    return (
        f"Seed noise: standard deviation {noise.deviation:.4f} nats ({noise.freedom} degrees of freedom). Between "
        f"single-seed results, differences below "
        f"{student_quantile((1 + LEVEL) / 2, noise.freedom) * math.sqrt(2) * noise.deviation:.4f} may be chance."
    )


def references_text(references: Sequence[pb.Candidate]) -> str:
    """Names with their numbers and analyses."""
    texts = []
    for reference in references:
        numbers = f"{numbers_text(reference)}\n" if reference.training.HasField("loss") else ""
        title = f"## {reference.proposal.name} ({reference.id})"
        texts.append(f"{title}\n{numbers}{reference.analysis.synthesis}".rstrip())
    return "\n\n".join(texts) or NOTHING


def best_text(best: Sequence[pb.Candidate]) -> str:
    """The best candidates by loss, with their programs."""
    texts = (
        f"## {record.proposal.name} ({record.id}), held-out loss {_loss_text(record)}\n"
        f"```python\n{program_of(record).rstrip()}\n```"
        for record in best
    )
    return "\n\n".join(texts) or "The parent is the best so far."


def board_text(board: Sequence[pb.Candidate]) -> str:
    """One line of about 50 tokens for each candidate of the run: loss, what changed against its parent, lesson.

    Best first: at most `BOARD_BEST` by loss and `BOARD_NEWEST` of the others, newest first; the rest is counted.
    """
    known = {record.id: record for record in board}
    measured = sorted((r for r in board if r.training.HasField("loss")), key=lambda record: record.training.loss)
    rest = sorted(
        (*measured[BOARD_BEST:], *(r for r in board if r.proposal.name and not r.training.HasField("loss"))),
        key=lambda record: record.request.number,
        reverse=True,
    )
    shown = (*measured[:BOARD_BEST], *rest[:BOARD_NEWEST])
    lines = [_board_line(record, known.get(record.proposal.parent)) for record in shown]
    if len(rest) > BOARD_NEWEST:
        lines.append(f"- and {len(rest) - BOARD_NEWEST} older ones")
    return "\n".join(lines) or NOTHING


def _board_line(record: pb.Candidate, parent: pb.Candidate | None) -> str:
    parts = [f"{record.proposal.name} ({record.id})"]
    parts += [_loss_text(record)] if record.training.HasField("loss") else []
    if record.HasField("rejection"):
        parts.append(f"rejected at {record.rejection.stage}: {_shortened(record.rejection.reason)}")
    parts += [change] if (change := _change_text(record, parent)) else []
    parts += [_shortened(record.analysis.synthesis)] if record.analysis.synthesis else []
    return "- " + "; ".join(parts)


def _loss_text(record: pb.Candidate) -> str:
    """The held-out loss with its standard error over several seeds, and whether it is that of a whole training."""
    training = record.training
    error = f" ± {training.loss_stderr:.4f}" if training.HasField("loss_stderr") else ""
    return f"{training.loss:.4f}{error}{' (stopped early, not comparable)' if stopped_early(record) else ''}"


def _change_text(record: pb.Candidate, parent: pb.Candidate | None) -> str:
    """Components gained and lost against the parent, the first few; all of a candidate without a known parent."""
    own = list(record.proposal.components)
    before = list(parent.proposal.components) if parent is not None else []
    changed = [f"+{name}" for name in own if name not in before] + [f"−{name}" for name in before if name not in own]
    more = f" and {len(changed) - BOARD_COMPONENTS} more" if len(changed) > BOARD_COMPONENTS else ""
    return f"{'' if parent is None else parent.id} {' '.join(changed[:BOARD_COMPONENTS])}{more}".strip()


def _shortened(text: str) -> str:
    """The first sentences of a text, on one line, within `LESSON_CHARACTERS`."""
    flat = " ".join(text.split())
    return flat if len(flat) <= LESSON_CHARACTERS else flat[: LESSON_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"


def cognition_text(entries: Sequence[cognition_pb2.CognitionEntry]) -> str:
    """Entries with their ids, so that ideas can name their source."""
    texts = (f"[{entry.id}] {entry.title} ({entry.year}): {entry.design_insight} {entry.guidance}" for entry in entries)
    return "\n\n".join(texts) or NOTHING


def neighbours_text(neighbours: Sequence[pb.Candidate]) -> str:
    """Name, loss, components and motivation of each neighbour, for comparison with a motivation."""
    texts = []
    for neighbour in neighbours:
        loss = f", held-out loss {neighbour.training.loss:.4f}" if neighbour.training.HasField("loss") else ""
        components = f" [{', '.join(neighbour.proposal.components)}]" if neighbour.proposal.components else ""
        motivation = neighbour.proposal.motivation
        texts.append(f"[{neighbour.id}] {neighbour.proposal.name}{loss}{components}: {motivation}")
    return "\n\n".join(texts) or NOTHING


def difference_text(program: str, neighbours: Sequence[pb.Candidate]) -> str:
    """The diff of a program against its most similar neighbour, without docstrings and comments.

    The same mechanism may be described in different words, and different ones in similar words.
    """
    own = _code_lines(program)
    differences = []
    for neighbour in neighbours:
        neighbour_lines = _code_lines(program_of(neighbour))
        if own and neighbour_lines:
            lines = list(difflib.unified_diff(neighbour_lines, own, neighbour.id, "the proposal", lineterm="", n=1))
            differences.append((len(lines), neighbour.id, lines))
    if not differences:
        return "No program to compare with."
    length, name, lines = min(differences)
    if length > DIFFERENCE_LINES:
        return f"The program most like it, {name}, differs in more than {DIFFERENCE_LINES} lines."
    return "\n".join(("```diff", *lines, "```")) if lines else f"Nothing: its code is that of {name}."


def _code_lines(program: str) -> list[str]:
    """The lines of a program without docstrings and comments; none if it cannot be parsed."""
    try:
        return ast.unparse(without_docstrings(parse(program))).splitlines()
    except Unreadable:
        return []


def refusals_text(refusals: Sequence[Refusal]) -> str:
    """The refused drafts of this seat; the last one in full, with what it repeats or what failed."""
    if not refusals:
        return NOTHING
    lines = [f"- {refusal.draft.name}: {refusal.sentence}" for refusal in refusals]
    last = refusals[-1]
    if last.kind == "repeat":
        lines.append("Your last draft is a repeat: propose an idea that is orthogonal to what it repeats.")
        lines += [f"What it repeats:\n{neighbours_text(last.repeats)}"] if last.repeats else []
    elif last.kind == "drawn":
        lines.append("Your last draft is sound: propose another one, whose idea is orthogonal to it.")
    else:
        for verdict in last.verdicts:
            message = "" if verdict.message in last.sentence else f" {verdict.message}"
            lines.append(f"  {verdict.probe}:{message} {struct_json(verdict.evidence) if verdict.evidence else ''}")
        lines.append(f"Your last draft, which you may repair under the same name:\n{draft_text(last.draft)}")
    return "\n".join(lines)


def draft_text(draft: Draft) -> str:
    """A draft's motivation, components and program: without them a later call could not keep what was sound."""
    components = f"Components: {', '.join(draft.components)}\n" if draft.components else ""
    return f"Motivation: {draft.motivation}\n{components}```python\n{draft.program.rstrip()}\n```"
