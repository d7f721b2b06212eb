"""`python -m services.analyst`: one analyst, from environment settings."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it drains on it: an import would end in a traceback
    from services.analyst.app import AnalystSettings, build, require
    from services.chassis.service import main

    main("analyst", AnalystSettings, build, require)
