"""Fills shared memory and lets go of the pages, which then belong to no process."""

import mmap

mappings = []
while True:
    mappings.append(mmap.mmap(-1, 16 << 20))
    mappings[-1].write(b"x" * (16 << 20))
    mappings[-1].madvise(mmap.MADV_DONTNEED)
    print("held", 16 * len(mappings))
