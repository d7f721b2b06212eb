"""Fills the buffers of pairs of sockets."""

import socket

pairs = []
while True:
    pairs.append(socket.socketpair())
    pairs[-1][0].setblocking(False)
    sent = 0
    try:
        while True:
            sent += pairs[-1][0].send(b"x" * 4096)
    except BlockingIOError:
        print("held", len(pairs) * sent >> 20)
