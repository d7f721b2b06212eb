"""Makes a POSIX message queue that another job can find by its name."""

import ctypes
import os

librt = ctypes.CDLL("librt.so.1", use_errno=True)
if librt.mq_open(b"/asi-arch", os.O_CREAT | os.O_RDWR, 0o666, None) < 0:
    raise OSError(ctypes.get_errno(), "message queues are refused")
print("LEAKED: a message queue was made")
