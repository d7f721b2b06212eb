"""Ends by a signal that has no name."""

import os
import signal

os.kill(os.getpid(), signal.SIGRTMIN + 5)
