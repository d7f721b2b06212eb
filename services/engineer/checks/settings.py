"""What a check is told: sizes, the baseline to compare with, exemptions and limits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from services.domain.syntax import MOST_BYTES
from services.engineer.checks.report import JSON


class CheckSettingsError(ValueError):
    """A check setting is impossible. The message names it."""


@dataclass(frozen=True)
class CheckSettings:
    """`width` and `heads` are the scale's and serve to count parameters. Probes run at their own, small sizes.

    `baseline_parameters`, `layers` and `surrounding_parameters` speak of the whole language model: layers × mixer +
    surroundings (embedding, norms, feed-forward parts, head). Without a baseline no budget is enforced.
    `exempt` names probes to leave out, such as "cost" for the softmax reference.
    """

    width: int = 128
    heads: int = 4
    layers: int = 1
    surrounding_parameters: int = 0
    baseline_parameters: int | None = None
    parameter_limit: float = 2.0  # published programs reach twice their baseline; matching is for the comparison to do
    exempt: tuple[str, ...] = ()
    probe_width: int = 64
    probe_heads: int = 4
    seed: int = 0
    seconds: float = 60.0  # wall time for the whole check
    memory_bytes: int = 6 << 30
    program_bytes: int = MOST_BYTES

    def __post_init__(self) -> None:
        for name in ("width", "heads", "layers", "probe_width", "probe_heads", "seconds", "parameter_limit"):
            if getattr(self, name) <= 0:
                raise CheckSettingsError(f"{name} must be positive, not {getattr(self, name)}")
        for width, heads in ((self.width, self.heads), (self.probe_width, self.probe_heads)):
            if width % heads:
                raise CheckSettingsError(f"the width {width} must be a multiple of the {heads} heads")

    def to_json(self) -> dict[str, JSON]:
        """As the header that the guest reads back with `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "CheckSettings":
        """The settings that `to_json` wrote."""
        return cls(**{**values, "exempt": tuple(values["exempt"])})  # type: ignore[arg-type]
