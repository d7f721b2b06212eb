"""Makes a queue and a semaphore that another job can find by their numbers."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)
if libc.msgget(0x41534921, 0o1666) < 0 and libc.semget(0x41534921, 1, 0o1666) < 0:
    raise OSError(ctypes.get_errno(), "System V messages are refused")
print("LEAKED: a System V queue was made")
