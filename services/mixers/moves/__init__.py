"""The library of architectural moves: those of this package, and of installed distributions (group asi_arch.moves)."""

from collections.abc import Iterable, Mapping

from services.chassis.errors import SettingsError
from services.chassis.plugins import MOVES, load_plugin, plugin_names
from services.mixers.moves import inputs, memory, output, paths
from services.mixers.moves.move import Move, Source

__all__ = ["BY_NAME", "LIBRARY", "Move", "Source"]


def _added(known: Iterable[Move]) -> tuple[Move, ...]:
    """The moves of other distributions. Raises SettingsError for an object that is not a move, or a duplicate name."""
    names, added = {move.name for move in known}, list[Move]()
    for entry in plugin_names(MOVES):
        loaded = load_plugin(MOVES, entry)
        for move in [loaded] if isinstance(loaded, Move) else loaded if isinstance(loaded, tuple | list) else [None]:
            if not isinstance(move, Move):
                raise SettingsError(f"{entry!r} of {MOVES} must be a Move or a tuple of moves, not {loaded!r}")
            if move.name in names:
                raise SettingsError(f"{entry!r} of {MOVES} has the name of another move, {move.name}: rename it")
            names.add(move.name)
            added.append(move)
    return tuple(added)


_OWN: tuple[Move, ...] = (*memory.MOVES, *inputs.MOVES, *paths.MOVES, *output.MOVES)
LIBRARY: tuple[Move, ...] = (*_OWN, *_added(_OWN))
BY_NAME: Mapping[str, Move] = {move.name: move for move in LIBRARY}
