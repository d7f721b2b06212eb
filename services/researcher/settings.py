"""Settings of the researcher."""

from pydantic import Field

from services.chassis.settings import ServiceSettings


class ResearcherSettings(ServiceSettings):
    """Variables begin with ASI_RESEARCHER_ where they are the researcher's own."""

    parallel: int = Field(4, ge=1, description="seats worked on at once; a language model has a limit of its own")
