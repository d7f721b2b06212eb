"""`asi-arch setup`: streams, consumers and the archive's tables and indexes are made, or what differs is told."""

from dataclasses import dataclass

from services.chassis.bus import Bus
from services.store.backends import open_archive
from services.store.port import ArchiveUnavailable
from services.store.settings import StoreSettings


@dataclass(frozen=True)
class Found:
    """What was made, and every difference that is left, a sentence each."""

    created: tuple[str, ...]
    differences: tuple[str, ...]


async def set_up(settings: StoreSettings, create: bool) -> Found:
    """Make what is missing and bring an older archive up to date, where `create` says so; change nothing else.

    Raises what `Archive.open` and the bus raise.
    """
    async with Bus(settings, "asi-setup") as bus:
        created = await bus.set_up() if create else []
        differences = await bus.compare()
    return Found(tuple(created), (*differences, *await _archive(settings, create)))


async def _archive(settings: StoreSettings, create: bool) -> list[str]:
    archive = open_archive(settings.archive)
    try:
        if create:
            await archive.open()
        return [f"archive: {line}" for line in await archive.drift()]
    except ArchiveUnavailable as error:
        return [f"archive: it cannot be read: {error}"]
    finally:
        await archive.close()
