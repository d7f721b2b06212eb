"""Leaves a file where shared memory lives."""

from pathlib import Path

Path("/dev/shm/asi-arch").write_text("here")
print("LEAKED: /dev/shm can be written")
