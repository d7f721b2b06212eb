"""What a move of one's own needs (entry points asi_arch.moves): how a mixer is described, and how changes are made."""

from services.mixers.description import Mixer
from services.mixers.moves.move import Move, Source, add_path, changed, drop_path, setting, where, with_paths

__all__ = ["Mixer", "Move", "Source", "add_path", "changed", "drop_path", "setting", "where", "with_paths"]
