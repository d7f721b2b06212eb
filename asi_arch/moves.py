"""Types for moves (entry points asi_arch.moves): descriptions of mixers, and changes of them."""

from services.mixers.description import Mixer
from services.mixers.moves.move import Move, Source, add_path, changed, drop_path, setting, where, with_paths

__all__ = ["Mixer", "Move", "Source", "add_path", "changed", "drop_path", "setting", "where", "with_paths"]
