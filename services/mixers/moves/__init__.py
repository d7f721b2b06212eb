"""The library of architectural moves."""

from collections.abc import Mapping

from services.mixers.moves import inputs, memory, output, paths
from services.mixers.moves.move import Move, Source

LIBRARY: tuple[Move, ...] = (*memory.MOVES, *inputs.MOVES, *paths.MOVES, *output.MOVES)
BY_NAME: Mapping[str, Move] = {move.name: move for move in LIBRARY}

__all__ = ["BY_NAME", "LIBRARY", "Move", "Source"]
