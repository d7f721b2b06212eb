"""`python -m services.store`: one store, from environment settings."""

from services.chassis.service import main
from services.store.app import build
from services.store.settings import StoreSettings

if __name__ == "__main__":
    main("store", StoreSettings, build)
