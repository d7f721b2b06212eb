"""Leaves folders in folders with names as long as they may be, which nobody may enter."""

import os

for _ in range(200):
    os.mkdir("d" * 255)
    os.chmod("d" * 255, 0o700)
    os.chdir("d" * 255)
    os.chmod("..", 0o000)
os._exit(0)
