"""Fills files in memory that are mapped and closed."""

import mmap
import os

kept = []
while True:
    descriptor = os.memfd_create("kept")
    os.ftruncate(descriptor, 16 << 20)
    kept.append(mmap.mmap(descriptor, 16 << 20))
    os.close(descriptor)
    kept[-1].write(b"x" * (16 << 20))
    kept[-1].madvise(mmap.MADV_DONTNEED)
    print("held", 16 * len(kept))
