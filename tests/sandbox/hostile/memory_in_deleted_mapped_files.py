"""Fills files that are mapped, deleted and closed."""

import mmap
import os
from pathlib import Path

kept = []
while True:
    with Path("gone").open("w+b") as file:
        file.truncate(4 << 20)
        kept.append(mmap.mmap(file.fileno(), 4 << 20))
    os.unlink("gone")
    kept[-1].write(b"x" * (4 << 20))
    kept[-1].madvise(mmap.MADV_DONTNEED)
    print("held", 4 * len(kept))
