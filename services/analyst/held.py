"""Which numbers an analysis may cite: those of the candidate and its relatives, and those that were shown in texts.

Curves are neither shown to a model nor held here: hundreds of values close to each other would let any number pass.
"""

from collections.abc import Iterable, Iterator

from google.protobuf.message import Message as ProtobufMessage

from services.analyst.dossier import Dossier
from services.analyst.numbers import Held, numerals
from services.analyst.offline.comparing import loss_difference, parameters_of, speed_of, task_changes, task_means
from services.contracts import candidate_pb2 as pb

LOSS_DIGITS, OTHER_DIGITS = 4, 3  # as a model is shown them; it computes with what it sees


def held_by(dossier: Dossier, shown: Iterable[str] = ()) -> Held:
    """All numbers of the dossier; `shown` are the texts that its author was given."""
    rows: dict[str, list[float]] = {}
    for record in dossier.everyone:
        for name, value in quantities(record):
            rows.setdefault(name, []).append(value)
    rounded = [tuple(round(value, _digits(name)) for value in values) for name, values in rows.items()]
    exact = [tuple(values) for values in rows.values()]
    errors = [(value,) for value in _errors(dossier)]
    return Held((*exact, *rounded, *errors), numerals(shown))


def quantities(record: pb.Candidate) -> Iterator[tuple[str, float]]:
    """(name, value) of what was measured about one candidate: means over seeds, then each seed's own."""
    training = record.training
    for name in ("loss", "loss_stderr", "benchmark", "benchmark_stderr"):
        if training.HasField(name):
            yield name, float(getattr(training, name))
    yield from ((f"task {task}", value) for task, value in task_means(record).items())
    yield from _costs(record)
    for seed in training.seeds:
        yield from _of_seed(seed)
    yield from _of_message("verdict", record.verdict)


def _costs(record: pb.Candidate) -> Iterator[tuple[str, float]]:
    if (parameters := parameters_of(record)) is not None:
        yield "parameters", float(parameters)
    if (speed := speed_of(record)) is not None:
        yield "tokens per second", speed


def _of_seed(seed: pb.SeedResult) -> Iterator[tuple[str, float]]:
    yield "loss of a seed", seed.loss
    if seed.bits_per_byte:
        yield "bits per byte", seed.bits_per_byte
    if seed.HasField("loss_stderr"):
        yield "loss_stderr of a seed", seed.loss_stderr
    for score in seed.scores:
        yield f"{score.task} of a seed", score.value
        if score.HasField("stderr"):
            yield f"stderr of {score.task}", score.stderr
    yield from _of_message("measured", seed.measurements)


def _of_message(prefix: str, message: ProtobufMessage) -> Iterator[tuple[str, float]]:
    """Every number of a message, each under the name of its field."""
    for field, value in message.ListFields():
        name = f"{prefix} {field.name}"
        if isinstance(value, ProtobufMessage):
            yield from _of_message(name, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _errors(dossier: Dossier) -> Iterator[float]:
    """Standard errors of the differences that can be computed from the records."""
    for other in dossier.everyone[1:]:
        differences = [loss_difference(dossier.record, other)]
        differences += [change.difference for change in task_changes(dossier.record, other)]
        yield from (one.stderr for one in differences if one is not None and one.stderr is not None)


def _digits(name: str) -> int:
    return LOSS_DIGITS if name.startswith("loss") else OTHER_DIGITS
