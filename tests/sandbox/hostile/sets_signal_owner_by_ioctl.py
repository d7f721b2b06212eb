"""The same through ioctl, which no rule on fcntl sees."""

import ctypes
import os

reader, writer = os.pipe()
libc = ctypes.CDLL(None, use_errno=True)
if libc.ioctl(reader, 0x8901, ctypes.byref(ctypes.c_int(1))):
    raise OSError(ctypes.get_errno(), "the owner of a pipe is refused")
print("LEAKED: signals can be sent to others")
