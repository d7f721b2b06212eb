"""Listens under a name that belongs to no file."""

import socket

line = socket.socket(socket.AF_UNIX)
line.bind("\0asi-arch")
print("LEAKED: an abstract socket was bound")
