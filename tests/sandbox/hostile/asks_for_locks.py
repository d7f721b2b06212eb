"""Asks who holds a lock on a file that all jobs may read."""

import fcntl
import os
import struct

with open(os.__file__, "rb") as file:
    question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(file, fcntl.F_GETLK, question)
print("LEAKED: locks on a shared file can be seen")
