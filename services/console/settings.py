"""Settings of the command line."""

import os
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

    def run_folder(self, run: str) -> Path:
        """Where a run's reports go."""
        return self.data_dir / "runs" / run


def console_settings() -> ConsoleSettings:
    """From the environment. Raises SettingsError."""
    return load(ConsoleSettings, "console")
