"""`python -m services.judge`: one judge, from environment settings."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it drains on it: an import would end in a traceback
    from services.chassis.service import main
    from services.judge.app import JudgeSettings, build
    from services.llm.minds import require_minds

    main("judge", JudgeSettings, build, require_minds)
