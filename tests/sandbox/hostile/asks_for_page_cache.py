"""Asks which pages of a shared file somebody has read."""

import ctypes
import mmap
import os

size = os.stat(os.__file__).st_size
with open(os.__file__, "rb") as file:
    mapping = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
libc = ctypes.CDLL(None, use_errno=True)
address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapping)))
if libc.mincore(address, ctypes.c_size_t(size), ctypes.create_string_buffer(size // 4096 + 1)):
    raise OSError(ctypes.get_errno(), "mincore is refused")
print("LEAKED: the page cache of a shared file can be seen")
