"""`python -m services.researcher`: one researcher, from environment settings."""

from services.chassis.service import main
from services.researcher.app import build
from services.researcher.settings import ResearcherSettings

if __name__ == "__main__":
    main("researcher", ResearcherSettings, build)
