"""`python -m services.engineer`: one engineer, from environment settings."""

from services.chassis.service import main
from services.engineer.app import build, require
from services.engineer.settings import EngineerSettings

if __name__ == "__main__":
    main("engineer", EngineerSettings, build, require)
