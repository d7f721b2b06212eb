"""The folders of a sandbox on disk: one that belongs to it, and in it one for each child."""

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from services.sandbox.namespaces import ROOT

_PREFIX = "asi-sandbox-"
_LOCK = "lock"
_SETTLED_SECONDS = 60.0


class Folders:
    """Makes scratch folders below one folder of its own, which others may pass through but not list.

    The folder is locked while it is in use, so that whoever comes later can tell what a killed engineer has left.

    Attributes:
        root: the folder.
    """

    def __init__(self, parent: Path | None) -> None:
        place = Path(parent or tempfile.gettempdir()).resolve()
        _sweep(place)
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self.root.chmod(0o711)
        self._lock = _lock(self.root)
        (self.root / ROOT).mkdir()

    def scratch(self, number: int, owner: int | None) -> Path:
        """A new empty folder for one child, that belongs to user `owner` if one is given."""
        folder = Path(tempfile.mkdtemp(prefix=f"{number}-", dir=self.root))
        if owner is not None:
            os.chown(folder, owner, owner)
        return folder

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock, None if somebody else does."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(place: Path) -> None:
    """Remove the folders of sandboxes that were killed: of our user, not new, and locked by nobody."""
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            facts = folder.lstat()
            if facts.st_uid != os.geteuid() or time.time() - facts.st_mtime < _SETTLED_SECONDS or folder.is_symlink():
                continue
            descriptor = _lock(folder)
        except OSError:
            continue
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
