"""Maps a file of its own, private and shared."""

import mmap
from pathlib import Path

Path("values").write_bytes(bytes(1 << 20))
with Path("values").open("r+b") as file:
    mapping = mmap.mmap(file.fileno(), 0)
    mapping[:4] = b"here"
    copy = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    copy[:4] = b"more"
