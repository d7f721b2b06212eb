"""`python -m services.judge`: one judge, from environment settings."""

from services.chassis.service import main
from services.judge.app import JudgeSettings, build, require

if __name__ == "__main__":
    main("judge", JudgeSettings, build, require)
