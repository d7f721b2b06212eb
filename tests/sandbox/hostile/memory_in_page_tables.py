"""Reads one byte of every 2 MiB of a huge empty mapping: 4 KiB of page tables each, and nothing else."""

import mmap

mappings = []
while True:
    mappings.append(mmap.mmap(-1, 1 << 36, flags=mmap.MAP_PRIVATE | 0x4000, prot=mmap.PROT_READ))
    mappings[-1].madvise(15)  # MADV_NOHUGEPAGE: no page table is needed otherwise
    for offset in range(0, 1 << 36, 2 << 20):
        mappings[-1][offset]
    print("held", 128 * len(mappings))
