"""A former name, for `commands/table.py` only."""

from services.local.processes import ends_with_parent as leashed

__all__ = ["leashed"]
