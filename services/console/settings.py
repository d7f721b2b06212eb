"""Settings of the command line."""

import os
import re
from pathlib import Path

from services.chassis.settings import ServiceSettings, load


class ConsoleSettings(ServiceSettings):
    """The shared settings: what the command line needs beyond them are its flags."""

    @property
    def system_file(self) -> Path:
        """Written while a system of this data folder runs: addresses and process ids."""
        return self.data_dir / "system.json"

    @property
    def archive_is_elsewhere(self) -> bool:
        """Whether ASI_ARCHIVE_ADDRESS names a store that is up already."""
        return "ASI_ARCHIVE_ADDRESS" in os.environ

    @property
    def archive_place(self) -> str:
        """Where the archive of a system started here lies: a file, or a database, without user and password."""
        address = os.environ.get("ASI_ARCHIVE_URL")
        return _without_user(address) if address else str(self.data_dir / "archive.db")

    @property
    def log_place(self) -> str:
        """Where the event log of a system started here lies: a folder, or a broker that runs already."""
        return _without_user(self.nats_url) if "ASI_NATS_URL" in os.environ else str(self.data_dir / "nats")

    def run_folder(self, run: str) -> Path:
        """Where a run's reports go."""
        return self.data_dir / "runs" / run


def console_settings() -> ConsoleSettings:
    """From the environment. Raises SettingsError."""
    return load(ConsoleSettings, "console")


def _without_user(address: str) -> str:
    return re.sub(r"(?<=://)[^/]*@", "", address)
