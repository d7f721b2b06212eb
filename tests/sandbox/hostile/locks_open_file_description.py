"""Sets a lock that belongs to an open file."""

import fcntl
import os
import struct

with open(os.__file__, "rb") as file:
    fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0))  # F_OFD_SETLK
print("LEAKED: a lock on a shared file was set")
