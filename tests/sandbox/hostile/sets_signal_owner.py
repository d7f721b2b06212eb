"""Has the kernel send a signal of its choice to a process of its choice, when something comes through a pipe."""

import fcntl
import os
import signal

reader, writer = os.pipe()
fcntl.fcntl(reader, fcntl.F_SETOWN, 1)
fcntl.fcntl(reader, 10, signal.SIGKILL)
fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)
os.write(writer, b"x")
print("LEAKED: signals can be sent to others")
