"""`asi-arch pause`, `resume` and `stop`: steer a run that services work on, or will work on."""

import asyncio
from collections.abc import Callable, Coroutine

from services.console.archive import catch_up, run_status
from services.console.log import pause_run, resume_run, stop_run
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import say


def pause(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Start no further candidates; those in flight go on."""
    _steer("pause", lambda settings, name: pause_run(settings, name, "paused by hand"), argument, run, as_json)


def resume(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Start candidates again, where services are up; `asi-arch run --resume` starts the services too."""
    _steer("resume", resume_run, argument, run, as_json)


def stop(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """End a run; candidates in flight still come to their end."""
    _steer("stop", lambda settings, name: stop_run(settings, name, "stopped by hand"), argument, run, as_json)


def _steer(
    word: str,
    publish: Callable[[ConsoleSettings, str], Coroutine[None, None, None]],
    argument: str,
    run: str,
    as_json: bool,
) -> None:
    async def steer(settings: ConsoleSettings) -> str:
        name = (await run_status(settings, chosen_run(argument, run))).run
        await publish(settings, name)
        await catch_up(settings)
        return name

    name = asyncio.run(steer(console_settings()))
    print_json({"run": name, "told": word}) if as_json else say(f"run {name}: {word} published; see `asi-arch status`")
