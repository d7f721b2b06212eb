"""Fills the disk in folders whose paths are too long to be named."""

import os

for _ in range(64):
    os.mkdir("d" * 255)
    os.chdir("d" * 255)
number = 0
while True:
    with open(f"part-{number}", "wb") as file:
        file.write(bytes(1 << 20))
    number += 1
    print("held", number)
