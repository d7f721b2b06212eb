"""Fills the buffers of pairs of sockets."""

import socket

kept = []
while True:
    kept.append(socket.socketpair())
    kept[-1][0].setblocking(False)
    sent = 0
    try:
        while True:
            sent += kept[-1][0].send(b"x" * 4096)
    except BlockingIOError:
        print("held", len(kept) * sent >> 20)
