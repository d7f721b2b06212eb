"""What a check is told, and what it says: one verdict per probe that was reached; may the program be trained?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

from services.domain.syntax import MOST_BYTES
from services.sandbox.wire import printable, printable_json

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
EVIDENCE_CHARACTERS = 16 << 10
MESSAGE_CHARACTERS = 2000
"""The most of one verdict that is kept: what a program makes a probe say must not fill logs and events."""
Outcome = Literal["pass", "fail", "warn"]
ArithmeticName = Literal["double", "single", "autocast"]


@dataclass(frozen=True)
class Finding:
    """What one probe saw. Whether a violation is fatal or a warning is the registry's business, not the probe's."""

    violated: bool
    message: str
    evidence: Mapping[str, JSON] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """As plain JSON, for the way from the guest to the host."""
        return {"violated": self.violated, "message": self.message, "evidence": dict(self.evidence)}

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> "Finding":
        """The finding of `to_json`. Raises ValueError for anything else."""
        violated, message, evidence = values.get("violated"), values.get("message"), values.get("evidence")
        if not isinstance(violated, bool) or not isinstance(message, str) or not isinstance(evidence, Mapping):
            raise ValueError("a finding needs violated (bool), message (text) and evidence (an object)")
        return cls(violated, message[:MESSAGE_CHARACTERS], evidence)


@dataclass(frozen=True)
class Verdict:
    """One probe's answer. `fail` refuses the program, `warn` does not."""

    probe: str
    outcome: Outcome
    message: str
    evidence: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep what a stranger caused printable and bounded."""
        object.__setattr__(self, "message", printable(self.message, MESSAGE_CHARACTERS))
        object.__setattr__(self, "evidence", printable_json(self.evidence, EVIDENCE_CHARACTERS))

    @classmethod
    def of(cls, probe: str, fatal: bool, finding: Finding) -> "Verdict":
        """The verdict on what a probe found."""
        outcome: Outcome = "pass" if not finding.violated else "fail" if fatal else "warn"
        return cls(probe, outcome, finding.message, finding.evidence)

    def to_json(self) -> dict[str, JSON]:
        """As plain JSON, for the wire and for `--json`."""
        return {
            "probe": self.probe,
            "outcome": self.outcome,
            "message": self.message,
            "evidence": dict(self.evidence),
        }


@dataclass(frozen=True)
class CheckReport:
    """The whole check. A probe without a verdict was not reached, because one that it builds on failed.

    `parameters` counts the whole language model at the scale's sizes; None where the program could not be built.
    """

    passed: bool
    verdicts: tuple[Verdict, ...]
    seconds: float
    parameters: int | None = None
    isolation: str = ""

    def failures(self) -> tuple[Verdict, ...]:
        """The verdicts that refuse the program."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == "fail")

    def warnings(self) -> tuple[Verdict, ...]:
        """The verdicts worth a sentence to the program's author."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == "warn")

    def to_json(self) -> dict[str, JSON]:
        """As plain JSON, for the wire and for `--json`."""
        return {
            "passed": self.passed,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "seconds": round(self.seconds, 3),
            "parameters": self.parameters,
            "isolation": self.isolation,
        }


class CheckSettingsError(ValueError):
    """A check setting is impossible. The message names it."""


@dataclass(frozen=True)
class CheckSettings:
    """`width`, `heads`, `layers`, `length` and `batch` are the scale's: what decides is probed there, in every layer.

    Probes that only look for slips run at sizes of their own, `probe_width` and `probe_heads`. `baseline_parameters`,
    `layers` and `surrounding_parameters` speak of the whole language model: the mixers of all layers and their
    surroundings (embedding, norms, feed-forward parts, head). Without a baseline no budget is enforced.
    `exempt` names probes to leave out, such as "cost" for the softmax reference.
    """

    width: int = 128
    heads: int = 4
    layers: int = 2
    length: int = 256
    batch: int = 8
    precision: str = "fp32"
    surrounding_parameters: int = 0
    baseline_parameters: int | None = None
    parameter_limit: float = 2.5  # published programs reach 2.4 times the root at tiny; the comparison matches sizes
    exempt: tuple[str, ...] = ()
    whole_model: bool = False  # the program may name another mixer for each layer
    probe_width: int = 64
    probe_heads: int = 4
    seed: int | None = None  # of the values that a program is probed with; None draws one
    seconds: float = 60.0  # of processor time for the whole check, and by the clock for one answer
    memory_bytes: int = 6 << 30
    program_bytes: int = MOST_BYTES

    def __post_init__(self) -> None:
        for name in (
            "width",
            "heads",
            "layers",
            "length",
            "batch",
            "probe_width",
            "probe_heads",
            "seconds",
            "parameter_limit",
        ):
            if getattr(self, name) <= 0:
                raise CheckSettingsError(f"{name} must be positive, not {getattr(self, name)}")
        for width, heads in ((self.width, self.heads), (self.probe_width, self.probe_heads)):
            if width % heads:
                raise CheckSettingsError(f"the width {width} must be a multiple of the {heads} heads")

    @property
    def of_training(self) -> tuple[ArithmeticName, ...]:
        """The arithmetic of its training; both where the machine that trains it decides."""
        if self.precision == "fp32":
            return ("single",)
        return ("autocast",) if self.precision == "bf16-autocast" else ("single", "autocast")

    @property
    def most_parameters(self) -> float | None:
        """What the whole language model may have; None without a baseline."""
        return None if self.baseline_parameters is None else self.parameter_limit * self.baseline_parameters

    def to_json(self) -> dict[str, JSON]:
        """As the header that the guest reads back with `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "CheckSettings":
        """The settings that `to_json` wrote."""
        return cls(**{**values, "exempt": tuple(values["exempt"])})  # type: ignore[arg-type]
