"""`python -m services.store`: one store, from environment settings."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it drains on it: an import would end in a traceback
    from services.chassis.service import main
    from services.store.app import StoreSettings, build, require

    main("store", StoreSettings, build, require)
