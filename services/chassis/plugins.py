"""Extensions that other distributions register as entry points: evaluators, moves and probes.

A distribution names them in its pyproject.toml, as in

    [project.entry-points."asi_arch.evaluators"]
    palindromes = "my_package.evaluation:palindromes"

They run in the service's own process, outside of the sandbox: install only what you trust.
"""

from functools import cache
from importlib.metadata import entry_points

from services.chassis.errors import SettingsError

EVALUATORS, MOVES, PROBES = "asi_arch.evaluators", "asi_arch.moves", "asi_arch.probes"


@cache
def plugin_names(group: str) -> tuple[str, ...]:
    """The names in a group, in order; nothing is imported."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load_plugin(group: str, name: str) -> object:
    """The object that an entry point names. Raises SettingsError if it is unknown or cannot be imported."""
    entry = next((entry for entry in entry_points(group=group) if entry.name == name), None)
    if entry is None:
        raise SettingsError(f"no installed distribution adds {name!r} to {group}; there are {plugin_names(group)}")
    try:
        loaded: object = entry.load()
    except Exception as error:
        # A third-party module may raise any exception while it is imported.
        raise SettingsError(f"{entry.value}, which is {name!r} of {group}, cannot be loaded: {error}") from error
    return loaded
