"""Settings of the store."""

from pydantic import Field

from services.chassis.settings import ServiceSettings


class StoreSettings(ServiceSettings):
    """ASI_ARCHIVE_URL chooses the archive; all else is shared or begins with ASI_STORE_."""

    archive_url: str | None = Field(
        None, description="sqlite:///PATH or mongodb://…; default: archive.db below data_dir"
    )
    batch: int = Field(256, ge=1, le=1000, description="most events applied in one transaction")

    @property
    def archive(self) -> str:
        """Where the archive lies."""
        return self.archive_url or f"sqlite:///{(self.data_dir / 'archive.db').absolute()}"
