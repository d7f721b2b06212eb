"""Fills files that are mapped, deleted and closed."""

import mmap
import os
from pathlib import Path

mappings = []
while True:
    with Path("gone").open("w+b") as file:
        file.truncate(4 << 20)
        mappings.append(mmap.mmap(file.fileno(), 4 << 20))
    os.unlink("gone")
    mappings[-1].write(b"x" * (4 << 20))
    mappings[-1].madvise(mmap.MADV_DONTNEED)
    print("held", 4 * len(mappings))
