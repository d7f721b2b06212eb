"""Sends a count of floating-point operations that no machine can hold."""

import os
import struct

header = b'{"kind": "output", "header": {"flops": 1' + b"0" * 400 + b'}, "arrays": []}'
for descriptor in range(3, 1024):
    try:
        os.write(descriptor, struct.pack("<4sIQ", b"ASI1", len(header), 0) + header)
    except OSError:
        continue
