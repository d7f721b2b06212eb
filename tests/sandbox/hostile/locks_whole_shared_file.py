"""Locks a file that all jobs may read."""

import fcntl
import os

with open(os.__file__, "rb") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("LEAKED: a lock on a shared file was set")
