"""Leaves 1,500 folders, each in the one before, for somebody to remove."""

import os

for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
os._exit(0)
