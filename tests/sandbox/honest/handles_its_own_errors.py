"""Tries what is not allowed, and goes on without it."""

import os
import socket

for attempt in (lambda: socket.socket(), lambda: os.fork(), lambda: open("/root/secret")):
    try:
        attempt()
    except OSError:
        continue
