"""`python -m services.researcher`: one researcher, from environment settings."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it drains on it: an import would end in a traceback
    from services.chassis.service import main
    from services.llm.minds import require_minds
    from services.researcher.app import ResearcherSettings, build

    main("researcher", ResearcherSettings, build, require_minds)
