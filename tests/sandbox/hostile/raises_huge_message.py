"""Raises an error whose message fills a disk."""

raise ValueError("\x1b[2K" + "A" * (6 << 20))
