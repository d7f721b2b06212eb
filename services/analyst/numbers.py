"""Does a text cite only numbers that a record holds? An analysis that invents one is not taken.

A number must equal, at the digits it is written with, a number of the record, or the difference, ratio or relative
difference of two values of one quantity (losses with losses, never a loss with an accuracy), also as a percentage.
Whole numbers up to 12, years and arXiv ids are words of the field. What the check does not see: a number that is held
but said of the wrong thing, and numbers spelt out as words.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from google.protobuf.message import Message as ProtobufMessage

from services.analyst.comparison import loss_difference, parameters_of, speed_of, task_changes, task_means
from services.analyst.dossier import Dossier
from services.contracts import candidate_pb2 as pb

SMALL = 12  # "two heads", "six tasks"
YEARS = range(1950, 2101)

_ARXIV = re.compile(r"(?<![\w.])\d{2}(?:0[1-9]|1[0-2])\.\d{4,5}(?:v\d+)?(?![\d.]*\d)")
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<decimals>\d+))?(?:[eE](?P<exponent>[-+]?\d+))?"
    r"(?P<unit>\s?%|\s?(?:per\s?cent|percentage points?|points?|pp)\b|\s?(?:k|M|B)\b|\s(?:thousand|million|billion)\b)?"
)
_FACTORS = {"k": 1e3, "thousand": 1e3, "M": 1e6, "million": 1e6, "B": 1e9, "billion": 1e9}


@dataclass(frozen=True)
class Held:
    """What may be cited.

    `quantities`: values of one quantity each, the candidate's first, then its relatives'; the first two (candidate and
    parent) are compared with all others. `literals`: numbers that stand in texts which the record holds.
    """

    quantities: tuple[tuple[float, ...], ...]
    literals: frozenset[float] = frozenset()

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Everything that may be cited, without signs."""
        return tuple({abs(one) for quantity in self.quantities for one in _derived(quantity)} | self.literals)


@dataclass(frozen=True)
class Citation:
    """A number as it is written, its size without sign and unit, and half a unit of its last digit."""

    written: str
    value: float
    tolerance: float
    percent: bool
    bare: bool  # a whole number without a unit


def invented(text: str, held: Held) -> list[str]:
    """The numbers of the text that the record does not hold, as they are written there."""
    return [one.written for one in citations(text) if not _allowed(one, held)]


def citations(text: str) -> Iterator[Citation]:
    """All numbers of a text but arXiv ids."""
    for match in _NUMBER.finditer(_ARXIV.sub(" ", text)):
        yield _citation(match)


def numerals(texts: Iterable[str]) -> frozenset[float]:
    """The numbers of texts, percentages as shares too."""
    found = [one for text in texts for one in citations(text)]
    return frozenset(one.value for one in found) | {one.value / 100 for one in found if one.percent}


def _citation(match: re.Match[str]) -> Citation:
    whole, decimals = match["whole"].replace(",", ""), match["decimals"] or ""
    unit = (match["unit"] or "").strip()
    scale = 10.0 ** int(match["exponent"] or 0) * _FACTORS.get(unit, 1.0)
    value = float(f"{whole}.{decimals or 0}") * scale
    last = -len(decimals) if decimals else _rounded_zeros(whole)
    bare = not (decimals or unit or match["exponent"])
    return Citation(match.group().strip(), value, 0.5 * 10.0**last * scale, bool(unit) and unit not in _FACTORS, bare)


def _rounded_zeros(whole: str) -> int:
    """How many zeros at the end may stand for rounding: 16,000 may be 16,117, and two digits always count."""
    return max(0, min(len(whole) - len(whole.rstrip("0")), len(whole) - 2)) if len(whole) > 3 else 0


def _allowed(one: Citation, held: Held) -> bool:
    if one.bare and (one.value <= SMALL or one.value in YEARS):
        return True
    factor = 100.0 if one.percent else 1.0
    slack = one.tolerance + 1e-9 * max(1.0, one.value)
    return any(abs(value * factor - one.value) <= slack for value in held.values) or (
        one.percent and one.value in held.literals
    )


def _derived(quantity: tuple[float, ...]) -> Iterator[float]:
    yield from quantity
    for place, one in enumerate(quantity[:2]):
        for other in quantity[place + 1 :]:
            yield one - other
            for above, below in ((one, other), (other, one)):
                if below:
                    yield above / below
                    yield (above - below) / below


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
