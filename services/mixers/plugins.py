"""Extensions that other distributions register as entry points: evaluators, moves and probes.

A distribution names them in its pyproject.toml, as in

    [project.entry-points."asi_arch.evaluators"]
    palindromes = "my_package.evaluation:palindromes"

They run in the service's own process, outside of the sandbox: install only what you trust.
"""

from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import TypeVar

from services.chassis.errors import SettingsError

T = TypeVar("T")
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


def load_all(group: str, kind: type[T], name_of: Callable[[T], str], taken: Iterable[str]) -> list[T]:
    """The objects of a group, of which an entry point may name a tuple.

    Raises SettingsError for an object of another kind, and for one whose name is taken.
    """
    names, added = set(taken), list[T]()
    for entry in plugin_names(group):
        loaded = load_plugin(group, entry)
        for item in loaded if isinstance(loaded, tuple | list) else (loaded,):
            if not isinstance(item, kind):
                raise SettingsError(f"{entry!r} of {group} must be {kind.__name__} or a tuple of it, not {loaded!r}")
            if (name := name_of(item)) in names:
                raise SettingsError(f"{entry!r} of {group} has the name of another {kind.__name__}, {name}: rename it")
            names.add(name)
            added.append(item)
    return added
