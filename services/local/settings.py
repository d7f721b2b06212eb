"""Settings of the command line, and the system that runs in its data folder."""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from services.chassis.errors import NotFound, NotPossible, SettingsError
from services.chassis.settings import ServiceSettings, load, without_user

SQLITE = "sqlite:///"
_LOCK_SECONDS = 1.0  # a command that tests the lock holds it briefly
_START_SECONDS = 60.0


@dataclass(frozen=True)
class RunningSystem:
    """The content of system.json: the services started by `asi-arch run`."""

    pid: int
    nats_url: str
    addresses: dict[str, str]  # gRPC addresses by "archive", "checker", "cognition", "judge"

    def client(self, settings: "ClientSettings") -> "ClientSettings":
        addresses = {f"{name}_address": address for name, address in self.addresses.items()}
        return settings.model_copy(update={"nats_url": self.nats_url, **addresses})


class ClientSettings(ServiceSettings):
    """The shared settings; everything else is a flag."""

    @property
    def system_file(self) -> Path:
        """Addresses and process ids of the system of this data folder, while it runs."""
        return self.data_dir / "system.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that runs the system of this data folder."""
        return self.data_dir / "system.lock"

    @property
    def archive_is_elsewhere(self) -> bool:
        return "ASI_ARCHIVE_ADDRESS" in os.environ

    @property
    def archive_url(self) -> str:
        """The archive of this data folder, or the one that ASI_ARCHIVE_URL names."""
        return os.environ.get("ASI_ARCHIVE_URL") or f"{SQLITE}{(self.data_dir / 'archive.db').absolute()}"

    @property
    def archive_place(self) -> str:
        """The file or database of the archive of a system started here, without credentials."""
        address = os.environ.get("ASI_ARCHIVE_URL")
        return without_user(address) if address else str(self.data_dir / "archive.db")

    @property
    def log_place(self) -> str:
        """The folder or broker of the event log of a system started here, without credentials."""
        return without_user(self.nats_url) if "ASI_NATS_URL" in os.environ else str(self.data_dir / "nats")

    def run_folder(self, run: str) -> Path:
        return self.data_dir / "runs" / run

    def require_archive(self) -> None:
        """Raises NotFound if the archive file is missing. Databases report it when they are opened."""
        if self.archive_url.startswith(SQLITE) and not Path(self.archive_url.removeprefix(SQLITE)).exists():
            location = self.archive_place if "ASI_ARCHIVE_URL" in os.environ else str(self.data_dir)
            if self.archive_is_elsewhere:
                raise NotFound(f"there is no archive in {location}: set ASI_ARCHIVE_URL to the store's")
            raise NotFound(f"there is no archive in {location} yet: start a run with `asi-arch run`")


def client_settings() -> ClientSettings:
    """From the environment. Raises SettingsError."""
    return load(ClientSettings, "console")


def running_system(settings: ClientSettings) -> RunningSystem | None:
    """The system of this data folder, if its process is alive."""
    try:
        content = json.loads(settings.system_file.read_text())
        system = RunningSystem(int(content["pid"]), str(content["nats_url"]), dict(content["addresses"]))
        with settings.lock_file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return system
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


@contextmanager
def locked(settings: ClientSettings) -> Iterator[bool]:
    """Hold the data folder's lock; yields whether it was acquired. Raises SettingsError if it cannot be written."""
    problem = "created"
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        problem = "written"
        lock_file = settings.lock_file.open("w")
    except OSError as error:
        raise SettingsError(f"ASI_DATA_DIR={settings.data_dir} cannot be {problem}: {error.strerror}.") from None
    deadline = monotonic() + _LOCK_SECONDS
    with lock_file as lock:
        yield _acquired(lock, lambda: monotonic() > deadline)


def _acquired(file: IO[str], is_over: Callable[[], bool]) -> bool:
    """Lock a file, as soon as no other process holds it; False if the wait is over before that."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if is_over():
                return False
            sleep(0.01)
        else:
            return True


class LogInUse(NotPossible):
    """Another command's nats-server, at `url`, works on the files of the event log."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(f"another command uses the event log in {folder}: try again when it has ended")
        self.url = url


def lock_log(folder: Path, patience: float) -> IO[str]:
    """Lock the files of an event log: two servers would overwrite each other's events.

    The returned file, to which the holder writes its address, is locked until all processes that inherit it have ended.
    Raises LogInUse after `patience` seconds.
    """
    path, started = folder / "nats-server.lock", monotonic()

    def is_over() -> bool:
        starting = not path.read_text()  # a server writes its address once it listens
        return monotonic() - started > patience + (_START_SECONDS if starting else 0)

    lock = path.open("a+")
    try:
        if not _acquired(lock, is_over):
            raise LogInUse(folder, path.read_text())
        lock.truncate(0)
    except BaseException:
        lock.close()
        raise
    return lock


def split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def whole_numbers(flag: str, text: str) -> list[int]:
    """The numbers in a comma-separated list. Raises SettingsError unless there are some, all from 1."""
    try:
        numbers = [int(part) for part in split_names(text)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise SettingsError(f"{flag} is {text!r}; give comma-separated whole numbers from 1.")
    return numbers


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Similar names as in "; did you mean gla?"; empty if there are none."""
    import difflib

    names = {name.lower(): name for name in choices}
    matches = difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(names[match] for match in matches)}?" if matches else ""


def require_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    """Raises SettingsError with suggestions unless the value is one of the choices."""
    if value not in choices:
        choice = did_you_mean(value, choices) or f"; choose one of {', '.join(choices)}."
        raise SettingsError(f"{flag} is {value!r}{choice}")
