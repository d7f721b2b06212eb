"""Watches what other jobs read, file by file."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
descriptor = libc.inotify_init1(0)
if descriptor < 0 or libc.inotify_add_watch(descriptor, os.__file__.encode(), 0x1 | 0x20) < 0:
    raise OSError(ctypes.get_errno(), "inotify is refused")
print("LEAKED: readers of a shared file can be seen")
