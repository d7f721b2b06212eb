"""`python -m services.analyst`: one analyst, from environment settings."""

from services.analyst.app import AnalystSettings, build, require
from services.chassis.service import main

if __name__ == "__main__":
    main("analyst", AnalystSettings, build, require)
