"""Writes to the pages it shares with the fork server, then lets its own go: their sum, as counted, stays the same."""

import ctypes
import mmap
from pathlib import Path

held = 0
for line in Path("/proc/self/maps").read_text().splitlines():
    addresses, access = line.split()[:2]
    first, last = (int(part, 16) for part in addresses.split("-"))
    if access == "rw-p" and "stack" not in line:
        for address in range(first, last, mmap.PAGESIZE):
            byte = ctypes.c_ubyte.from_address(address)
            byte.value = byte.value
        held += last - first
print("held", held >> 20)
kept = []
while True:
    kept.append(bytearray(b"x" * (16 << 20)))
