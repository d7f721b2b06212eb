"""Sends an output of another shape in place of the job, and continues to run."""

import os
import struct

header = b'{"kind": "loaded", "header": {}, "arrays": []}'
answer = b'{"kind": "output", "header": {}, "arrays": [["output", "<f4", [1, 1]]]}'
for descriptor in range(3, 1024):
    try:
        os.write(descriptor, struct.pack("<4sIQ", b"ASI1", len(header), 0) + header)
        os.write(descriptor, struct.pack("<4sIQ", b"ASI1", len(answer), 4) + answer + bytes(4))
    except OSError:
        continue
