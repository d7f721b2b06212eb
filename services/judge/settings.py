"""Settings of the judge."""

from pydantic import Field

from services.chassis.settings import ServiceSettings


class JudgeSettings(ServiceSettings):
    """Variables begin with ASI_JUDGE_ where they are the judge's own."""

    parallel: int = Field(8, ge=1, description="candidates judged at once")
