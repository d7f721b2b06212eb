"""A run beside others: started in services that are up already, and left to them."""

import asyncio
from collections.abc import Mapping

from services.chassis.errors import NotPossible, SettingsError
from services.console.archive import open_archive
from services.console.commands.forking import fork_run, until_applied
from services.console.commands.run import new_name, settings_of, until_known
from services.console.estimate import settle
from services.console.forks import Fork, fork_settings
from services.console.local.system import running_system
from services.console.overrides import must_be_possible
from services.console.plan import Flags, run_settings
from services.console.settings import ConsoleSettings
from services.console.steer import start_run
from services.contracts import archive_pb2 as pb

PATIENCE = 15.0  # for engineers of a cluster, of which there may be none until there is work


async def join(settings: ConsoleSettings, flags: Flags, name: str | None, fork: Fork | None) -> str:
    """Start a run in the system of this data folder, or where ASI_ARCHIVE_ADDRESS and ASI_NATS_URL say; its name.

    Raises NotPossible where no services are up, SettingsError for an impossible run.
    """
    wanted = run_settings(flags)
    if fork is not None:
        wanted = fork_settings(await settings_of(settings, fork.run), wanted, fork.given)
    await asyncio.to_thread(must_be_possible, wanted)
    client = _client(settings)
    async with open_archive(settings) as archive:
        runs = {status.run: status for status in (await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs}
        run = name or new_name(runs)
        if run in runs and fork is None:  # a fork that was cut short goes on under its name
            raise SettingsError(f"a run called {run} exists already: choose another --run.")
        if fork is not None:
            await until_applied(archive, run, await fork_run(client, fork.spec, run, wanted))
        else:
            await settle(client, wanted, PATIENCE)
            await start_run(client, run, wanted)
            await until_known(archive, run, None)
    return run


def _client(settings: ConsoleSettings) -> ConsoleSettings:
    """The settings with which the services that are up are reached."""
    if settings.archive_is_elsewhere:
        return settings
    system = running_system(settings)
    if system is None:
        raise NotPossible(f"no services of {settings.data_dir} are up: without --join they are started with the run")
    addresses = system["addresses"]
    assert isinstance(addresses, Mapping)  # noqa: S101 - our own file
    checker = str(addresses["checker"])
    return settings.model_copy(update={"nats_url": str(system["nats_url"]), "checker_address": checker})
