"""Sets a record lock on a file that all jobs may read, which another job can ask about."""

import fcntl
import os

with open(os.__file__, "rb") as file:
    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 17)
print("LEAKED: a lock on a shared file was set")
