"""`python -m services.store`: one store, from environment settings."""

from services.chassis.service import main
from services.store.app import StoreSettings, build, require

if __name__ == "__main__":
    main("store", StoreSettings, build, require)
