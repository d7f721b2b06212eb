"""Sends text that is no text: half of a pair of surrogates, escapes for a terminal, a kind of 100,000 characters."""

import os
import struct

header = b'{"kind": "' + b"k" * 100_000 + b'\\ud800", "header": {"a": "\\u001b[2J\\udfff"}, "arrays": []}'
for descriptor in range(3, 1024):
    try:
        os.write(descriptor, struct.pack("<4sIQ", b"ASI1", len(header), 0) + header)
    except OSError:
        continue
