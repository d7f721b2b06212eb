"""The part "results" in sentences: losses, tasks, size and speed against root, parent and the best sibling."""

from services.analyst.dossier import Dossier
from services.analyst.offline.comparing import (
    Difference,
    TaskChange,
    loss_difference,
    parameters_of,
    speed_of,
    task_changes,
)
from services.contracts import candidate_pb2 as pb

MOST_TASKS = 4  # named one by one; a list of all is in the record
HONESTY = "Computed from the measurements of this run, without a language model."


def reference_of(dossier: Dossier) -> tuple[pb.Candidate, str] | None:
    """What the candidate is measured by first: its parent, else the root, unless it is that itself."""
    if dossier.parent is not None and dossier.parent.training.HasField("loss"):
        return dossier.parent, f"its parent {dossier.parent.proposal.name}"
    if dossier.root is not None and dossier.root.id != dossier.record.id and dossier.root.training.HasField("loss"):
        return dossier.root, f"the root {dossier.root.proposal.name}"
    return None


def results(dossier: Dossier) -> str:
    """What was measured; what was not is said, never written as a number."""
    sentences = [HONESTY, *_own(dossier.record), *_losses(dossier)]
    if reference := reference_of(dossier):
        sentences += [_tasks(task_changes(dossier.record, reference[0]), reference[1])]
        sentences += [_cost(dossier.record, reference[0])]
    return " ".join(sentence for sentence in sentences if sentence)


def listed(names: list[str]) -> str:
    """Names as a phrase: "a, b and c"."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "nothing"


def _own(record: pb.Candidate) -> list[str]:
    training = record.training
    if not training.HasField("loss"):
        return ["No held-out loss was measured."]
    sentences = [f"Held-out loss {training.loss:.4f} nats per token over {_seeds(training)}."]
    if training.HasField("benchmark"):
        error = f" (standard error {training.benchmark_stderr:.3f})" if training.HasField("benchmark_stderr") else ""
        sentences.append(f"Mean accuracy {training.benchmark:.3f}{error}.")
    if not record.verdict.HasField("fitness"):
        sentences.append(f"It has no fitness: {_absence(record.verdict)}.")
    return sentences


def _absence(verdict: pb.Verdict) -> str:
    return verdict.absent_because.removeprefix("the fitness is absent: ") or "a part of it is absent"


def _losses(dossier: Dossier) -> list[str]:
    record, others = dossier.record, list[tuple[pb.Candidate, str]]()
    if dossier.root is not None and dossier.root.id != record.id:
        others.append((dossier.root, f"the root {dossier.root.proposal.name}"))
    if dossier.parent is not None and (dossier.root is None or dossier.parent.id != dossier.root.id):
        others.append((dossier.parent, f"its parent {dossier.parent.proposal.name}"))
    best = next((one for one in dossier.siblings if one.training.HasField("loss")), None)
    if best is not None:
        others.append((best, f"its best sibling {best.proposal.name}"))
    return [_against(record, other, name) for other, name in others]


def _against(record: pb.Candidate, other: pb.Candidate, name: str) -> str:
    difference = loss_difference(record, other)
    if difference is None:
        return ""
    return f"Against {name} ({other.training.loss:.4f}) the loss is {_verdict(difference)}."


def _verdict(difference: Difference) -> str:
    size = f"{abs(difference.gain):.4f}"
    if difference.stderr is None:
        return f"not told apart: the difference of {size} has no known error"
    if not difference.certain():
        return f"not told apart: the difference of {size} lies within its error{_error(difference)}"
    return f"{'lower' if difference.gain > 0 else 'higher'} by {size}{_error(difference)}"


def _error(difference: Difference) -> str:
    over = "held-out data of one seed" if difference.seeds is None else f"{difference.count} seeds and held-out data"
    return f" (standard error {difference.stderr:.4f} over {over})"


def _tasks(changes: list[TaskChange], name: str) -> str:
    """Only what the items bear out, corrected for the number of tasks looked at."""
    if not changes:
        return ""
    told = [one for one in changes if one.difference.certain(among=len(changes))]
    tasks = f"{len(changes)} task{'s' if len(changes) > 1 else ''}"
    if not told:
        return f"On {tasks} it cannot be told from {name}: the largest change is {_change(changes[0], 'went')}."
    moved = listed([_change(one, "rose" if one.now > one.before else "fell") for one in told[:MOST_TASKS]])
    rest = len(changes) - len(told)
    return f"Of {tasks} against {name}, {moved}" + (f"; {rest} cannot be told apart." if rest else ".")


def _change(change: TaskChange, verb: str) -> str:
    which = ", which" if verb == "went" else ""
    return f"{change.task}{which} {verb} from {change.before:.3f} to {change.now:.3f}"


def _cost(record: pb.Candidate, other: pb.Candidate) -> str:
    sentences = []
    if (ours := parameters_of(record)) and (theirs := parameters_of(other)):
        sentences.append(f"It has {ours:,} parameters against {theirs:,}.")
    if (fast := speed_of(record)) and (before := speed_of(other)):
        sentences.append(f"It trains at {fast:,.0f} tokens per second against {before:,.0f}.")
    return " ".join(sentences)


def _seeds(training: pb.Training) -> str:
    count = len(training.seeds)
    if count == 1:
        return "one seed"
    spread = f", standard error {training.loss_stderr:.4f}" if training.HasField("loss_stderr") else ""
    return f"{count} seeds{spread}"
