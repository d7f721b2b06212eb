"""The library of architectural moves: those of this package, and of installed distributions (group asi_arch.moves)."""

from collections.abc import Mapping

from services.mixers.moves import inputs, memory, paths
from services.mixers.moves.move import Move, Source
from services.mixers.plugins import MOVES, load_all

__all__ = ["BY_NAME", "LIBRARY", "Move", "Source"]


_OWN: tuple[Move, ...] = (*memory.MOVES, *inputs.MOVES, *paths.MOVES)
LIBRARY: tuple[Move, ...] = (*_OWN, *load_all(MOVES, Move, lambda move: move.name, (move.name for move in _OWN)))
BY_NAME: Mapping[str, Move] = {move.name: move for move in LIBRARY}
