"""Fills the buffers of pipes."""

import fcntl
import os

kept = []
while True:
    kept.append(os.pipe())
    fcntl.fcntl(kept[-1][1], fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(kept[-1][1], False)
    os.write(kept[-1][1], b"x" * (1 << 20))
    print("held", len(kept))
