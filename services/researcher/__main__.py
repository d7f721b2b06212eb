"""`python -m services.researcher`: one researcher, from environment settings."""

from services.chassis.service import main
from services.researcher.app import ResearcherSettings, build, require

if __name__ == "__main__":
    main("researcher", ResearcherSettings, build, require)
