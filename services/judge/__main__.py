"""`python -m services.judge`: one judge, from environment settings."""

from services.chassis.service import main
from services.judge.app import build
from services.judge.settings import JudgeSettings

if __name__ == "__main__":
    main("judge", JudgeSettings, build)
