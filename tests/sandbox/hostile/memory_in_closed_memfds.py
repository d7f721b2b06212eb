"""Fills files in memory that are mapped and closed."""

import mmap
import os

mappings = []
while True:
    descriptor = os.memfd_create("kept")
    os.ftruncate(descriptor, 16 << 20)
    mappings.append(mmap.mmap(descriptor, 16 << 20))
    os.close(descriptor)
    mappings[-1].write(b"x" * (16 << 20))
    mappings[-1].madvise(mmap.MADV_DONTNEED)
    print("held", 16 * len(mappings))
