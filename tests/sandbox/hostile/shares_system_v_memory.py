"""Makes memory that another job can find by its number."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)
if libc.shmget(0x41534921, 4096, 0o1666) < 0:
    raise OSError(ctypes.get_errno(), "shmget is refused")
print("LEAKED: System V memory was made")
