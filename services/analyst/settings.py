"""Settings of the analyst."""

from pathlib import Path

from pydantic import Field

from services.chassis.settings import ServiceSettings


class AnalystSettings(ServiceSettings):
    """Variables begin with ASI_ANALYST_ where they are the analyst's own."""

    parallel: int = Field(8, ge=1, description="candidates analysed at once")
    threshold: float | None = Field(
        None, ge=-1, le=1, description="least cosine of a retrieved entry; default: 0.2, and 0.5 with an endpoint"
    )
    cognition_dir: Path | None = Field(None, description="entries added by users; default: cognition/ below data_dir")

    @property
    def own_entries(self) -> Path:
        """Where `asi-arch cognition add` puts entries."""
        return self.cognition_dir or self.data_dir / "cognition"
