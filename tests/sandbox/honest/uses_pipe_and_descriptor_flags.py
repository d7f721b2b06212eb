"""Uses a pipe of its own and the harmless commands of fcntl."""

import fcntl
import os

reader, writer = os.pipe()
fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_NONBLOCK)
fcntl.fcntl(fcntl.fcntl(writer, fcntl.F_DUPFD, 10), fcntl.F_GETFD)
os.write(writer, b"x")
os.read(reader, 1)
