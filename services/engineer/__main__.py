"""`python -m services.engineer`: one engineer, from environment settings."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it drains on it: an import would end in a traceback
    from services.chassis.service import main
    from services.engineer.app import build, require
    from services.engineer.settings import EngineerSettings

    main("engineer", EngineerSettings, build, require)
