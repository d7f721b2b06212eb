"""Settings of a check, and its report: one verdict for each probe that ran."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from services.sandbox.wire import escaped, escaped_json

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
EVIDENCE_CHARACTERS = 16 << 10
MESSAGE_CHARACTERS = 2000
"""Limits on one verdict, as programs influence its texts, which go into logs and events."""
Outcome = Literal["pass", "fail", "warn"]
ArithmeticName = Literal["double", "single", "autocast"]
MARKS: Mapping[Outcome, str] = {"pass": "ok  ", "warn": "warn", "fail": "FAIL"}


@dataclass(frozen=True)
class Finding:
    """The result of one probe. `Probe.fatal` decides whether a violation is fatal or a warning."""

    violated: bool
    message: str
    evidence: Mapping[str, JSON] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> "Finding":
        """From the fields, in a message from the child. Raises ValueError."""
        violated, message, evidence = values.get("violated"), values.get("message"), values.get("evidence")
        if not isinstance(violated, bool) or not isinstance(message, str) or not isinstance(evidence, Mapping):
            raise ValueError("a finding needs violated (a boolean), message (a string) and evidence (an object)")
        return cls(violated, message[:MESSAGE_CHARACTERS], evidence)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one probe. `fail` rejects the program, `warn` does not."""

    probe: str
    outcome: Outcome
    message: str
    evidence: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make texts that the program influences printable and bounded."""
        object.__setattr__(self, "message", escaped(self.message, MESSAGE_CHARACTERS))
        object.__setattr__(self, "evidence", escaped_json(self.evidence, EVIDENCE_CHARACTERS))

    @classmethod
    def of(cls, probe: str, fatal: bool, finding: Finding) -> "Verdict":
        outcome: Outcome = "pass" if not finding.violated else "fail" if fatal else "warn"
        return cls(probe, outcome, finding.message, finding.evidence)


@dataclass(frozen=True)
class CheckReport:
    """The result of a check. A probe has no verdict if it did not run because a probe it depends on failed.

    `parameters` counts the whole language model at the scale's sizes; None if the program could not be built.
    """

    passed: bool
    verdicts: tuple[Verdict, ...]
    seconds: float
    parameters: int | None = None
    isolation: str = ""


@dataclass(frozen=True)
class CheckSettings:
    """Sizes, limits and exemptions of a check.

    Host probes run in every layer at the scale's `width`, `heads`, `length` and `batch`; child probes run at
    `probe_width` and `probe_heads`. `surrounding_parameters` counts the language model without the mixers of the
    candidate's `layers`. The limit on parameters is `parameter_limit` times `baseline_parameters`, if these are known.
    `exempt` names probes to skip, such as "cost" for the softmax reference.
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
    whole_model: bool = False  # the program may choose a different mixer for each layer
    probe_width: int = 64
    probe_heads: int = 4
    seed: int | None = None  # of the probes' inputs; None draws one
    seconds: float = 60.0  # CPU time of the whole check, and wall-clock time of an answer if the child is idle
    memory_bytes: int = 6 << 30

    def __post_init__(self) -> None:
        sizes = ("width", "heads", "layers", "length", "batch", "probe_width", "probe_heads")
        for name in (*sizes, "seconds", "parameter_limit"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for width, heads in ((self.width, self.heads), (self.probe_width, self.probe_heads)):
            if width % heads:
                raise ValueError(f"the width {width} must be a multiple of the {heads} heads")

    @property
    def of_training(self) -> tuple[ArithmeticName, ...]:
        """The arithmetic of training; both possible ones if the training machine decides."""
        if self.precision == "fp32":
            return ("single",)
        return ("autocast",) if self.precision == "bf16-autocast" else ("single", "autocast")

    @property
    def most_parameters(self) -> float | None:
        """The limit on the whole language model's parameters; None without a baseline."""
        return None if self.baseline_parameters is None else self.parameter_limit * self.baseline_parameters

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "CheckSettings":
        """From the fields, in a message from the host."""
        return cls(**{**values, "exempt": tuple(values["exempt"])})  # type: ignore[arg-type]


def report_text(report: CheckReport, verbose: bool) -> str:
    """A line per verdict; failures, or with `verbose` all, with their evidence."""
    lines = []
    for verdict in report.verdicts:
        lines.append(f"{MARKS[verdict.outcome]}  {verdict.probe:<14} {verdict.message}")
        if verdict.evidence and (verbose or verdict.outcome == "fail"):
            lines += _evidence_lines(verdict.evidence)
    result = "passed" if report.passed else "refused"
    parameters = "" if report.parameters is None else f", {report.parameters:,} parameters in the whole model"
    return "\n".join([*lines, f"{result} in {report.seconds:.1f} s ({report.isolation}{parameters})"])


def _evidence_lines(evidence: Mapping[str, JSON]) -> list[str]:
    """Values by name, then the program's own frames; the exception itself is the verdict's message."""
    values = [
        f"{name.replace('_', ' ')} {value if isinstance(value, str | int | float) else json.dumps(value)}"
        for name, value in evidence.items()
        if name != "traceback"
    ]
    lines = [", ".join(values)[:400]] if values else []
    lines += str(evidence.get("traceback", "")).splitlines()[1:-1]
    return [f"      {line}" for line in lines]
