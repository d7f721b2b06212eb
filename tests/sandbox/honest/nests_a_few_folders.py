"""Nests folders as deep as caches of compilers do."""

from pathlib import Path

Path("/".join(["cache"] * 12)).mkdir(parents=True)
